// jinja_print.h - values of a chat template as text.
//
// Text          as Python's str() and repr() write it; JSON as json.dumps writes it. What repr escapes is
//               what Unicode 14 (PCRE2's tables) does not know as a letter, mark, number, sign or blank.
// Errors        Refused for what has no such text: a namespace, a view, a generator, in JSON an undefined value.
#pragma once
#include <optional>
#include <string>

#include "runtime/jinja_value.h"

namespace nestling::jinja {

std::string printed(const Value& v);  // as {{ }} prints it

struct JsonStyle {
  bool ascii = false;
  bool sorted = false;
  std::optional<std::string> indent = {};  // none: one line
  std::string between = ", ";              // items
  std::string behind_key = ": ";
};
std::string json_text(const Value& v, const JsonStyle& style);

}  // namespace nestling::jinja
