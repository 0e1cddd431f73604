// jinja_parser.h - the text of a chat template as a tree.
//
// Language      the part of Jinja2 that chat templates use: for (with else, break, continue), if / elif /
//               else, set (of variables, of a namespace's field, of a block), with, macro, filter, raw,
//               generation; the expressions in `Expression`. Comments are dropped.
// Whitespace    as transformers renders: trim_blocks, lstrip_blocks, `-` and `+` at tags, the last newline
//               of the text dropped.
// Errors        kInput naming template, line and the construct that is not known or not closed.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "runtime/jinja_expression.h"

namespace nestling::jinja {

//   kText       text
//   kOutput     a; where text says what it is: only of a text
//   kSet        names = a, or = body where a is null; text.field = a or body where there are no names
//   kFor        names in a if b: body, otherwise; b null: all
//   kIf         a: body, otherwise (an elif is an if in there)
//   kMacro      text(parameters): body; a parameter without a value: null
//   kScope      parameters = their values, then body; the variables end with it
struct Statement {
  enum class Kind : uint8_t { kText, kOutput, kSet, kFor, kIf, kMacro, kScope, kBreak, kContinue };
  Kind kind;
  int line;
  std::string text = {};
  std::string field = {};
  std::vector<std::string> names = {};  // several: the value is taken apart
  Part a = {}, b = {};
  std::vector<Statement> body = {}, otherwise = {};
  std::vector<std::pair<std::string, Part>> parameters = {};
};

// `name` stands in messages for the file.
std::vector<Statement> parse(const std::string& source, const std::string& name);

}  // namespace nestling::jinja
