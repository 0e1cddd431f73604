// jinja_lexer.h - the text of a chat template as tokens; used by jinja_parser alone.
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

}  // namespace nestling::jinja
