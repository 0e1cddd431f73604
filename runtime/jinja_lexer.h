// jinja_lexer.h - the text of a chat template as tokens; used by jinja_expression and jinja_parser.
#pragma once
#include <string>
#include <vector>

namespace nestling::jinja {

struct Token {
  enum class Kind : uint8_t {
    kText,
    kBlockBegin,
    kBlockEnd,
    kOutputBegin,
    kOutputEnd,
    kName,
    kString,
    kNumber,
    kOperator,
    kEnd
  };
  Kind kind;
  std::string text;  // of a string: its value
  int line;
};

// Whitespace at tags has been dealt with; ends with kEnd.
std::vector<Token> tokenize(const std::string& source, const std::string& name);

// `name` stands for the file.
[[noreturn]] void fail(const std::string& name, int line, const std::string& what);

}  // namespace nestling::jinja
