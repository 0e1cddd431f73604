// jinja.h - chat templates rendered: the language of runtime/jinja_parser.h, evaluated as Jinja2 does.
//
// As            transformers' apply_chat_template does: its tojson, strftime_now() (of now, in local time),
//               raise_exception(), {% generation %}, {% break %} and {% continue %}; lists and
//               dictionaries are never changed, which its sandbox forbids.
// Values        runtime/jinja_value.h; an undefined name is a value of its own, which prints as nothing. A
//               field of an undefined value, or arithmetic with one, is an error, as there.
// Knows         the filters of runtime/jinja_filters.cpp and jinja_item_filters.cpp, the tests of
//               jinja_tests.cpp, the methods of jinja_methods.cpp; macros; the fields of loop.
// Errors        kInput naming template, line and construct: whatever is not known is refused where it
//               would be evaluated, never rendered as something else. raise_exception() too.
// Threads       render is const.
#pragma once
#include <string>
#include <vector>

#include "runtime/jinja_parser.h"

namespace nestling {

class JinjaTemplate {
 public:
  // `name` stands in messages for the file.
  JinjaTemplate(const std::string& source, std::string name);
  std::string render(const OrderedJson& variables) const;  // an object: name to value

 private:
  std::string name_;
  std::vector<jinja::Statement> statements_;
};

}  // namespace nestling
