// jinja_parser.h - the text of a chat template as a tree.
//
// Language      the part of Jinja2 that chat templates use: for (with else), if / elif / else, set (of a
//               variable, of a namespace's field, of a block), macro, generation;
//               the expressions in `Expression`. Comments are dropped.
// Whitespace    as transformers renders: trim_blocks, lstrip_blocks, `-` and `+` at tags, the last newline
//               of the text dropped.
// Errors        kInput naming template, line and the construct that is not known or not closed.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/json.h"

namespace nestling::jinja {

// What `text` and `parts` are:
//   kLiteral    value
//   kName       text
//   kList       parts; kDict: named
//   kField      parts[0].text;  kItem: parts[0][parts[1]];  kSlice: parts[0][parts[1]:parts[2]:parts[3]],
//               null: open
//   kCall       parts[0](parts[1...], named...)
//   kFilter     parts[0] | text(parts[1...], named...);  kTest: parts[0] is text
//   kUnary      text: not - +;  kBinary: text: or and == != < <= > >= in + - ~ * / // %
//   kChoice     parts[1] if parts[0] else parts[2] (null: undefined)
struct Expression;
using Part = std::unique_ptr<Expression>;
struct Expression {
  enum class Kind : uint8_t {
    kLiteral,
    kName,
    kList,
    kDict,
    kField,
    kItem,
    kSlice,
    kCall,
    kFilter,
    kTest,
    kUnary,
    kBinary,
    kChoice
  };
  Kind kind;
  int line;
  std::string text = {};
  Json value = {};
  std::vector<Part> parts = {};
  std::vector<std::pair<std::string, Part>> named = {};
};

//   kText       text
//   kOutput     a
//   kSet        text[.field] = a, or = body where a is null
//   kFor        text in a if b: body, otherwise; b null: all
//   kIf         a: body, otherwise (an elif is an if in there)
//   kMacro      text(parameters): body; a parameter without a value: null
//   kScope      body, whose variables end with it
struct Statement {
  enum class Kind : uint8_t { kText, kOutput, kSet, kFor, kIf, kMacro, kScope };
  Kind kind;
  int line;
  std::string text = {};
  std::string field = {};
  Part a = {}, b = {};
  std::vector<Statement> body = {}, otherwise = {};
  std::vector<std::pair<std::string, Part>> parameters = {};
};

// `name` stands in messages for the file.
std::vector<Statement> parse(const std::string& source, const std::string& name);

[[noreturn]] void fail(const std::string& name, int line, const std::string& what);

}  // namespace nestling::jinja
