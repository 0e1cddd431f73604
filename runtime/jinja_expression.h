// jinja_expression.h - an expression of a chat template as a tree, and its part of the parser.
//
// Errors        kInput naming template, line and the construct that is not known.
#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/jinja_lexer.h"
#include "runtime/jinja_value.h"

namespace nestling::jinja {

// What `text` and `parts` are:
//   kLiteral    value
//   kName       text
//   kList       parts; kTuple: parts; kDict: parts, a key and its value in turn
//   kField      parts[0].text;  kItem: parts[0][parts[1]];  kSlice: parts[0][parts[1]:parts[2]:parts[3]],
//               null: open
//   kCall       parts[0](parts[1...], named...)
//   kFilter     parts[0] | text(parts[1...], named...);  kTest: parts[0] is text(parts[1...], named...)
//   kUnary      text: not - +;  kBinary: text: or and + - ~ * / // %
//   kCompare    parts[0] and the named, whose names are == != < <= > >= in, not in: a < b < c is a < b and b < c
//   kChoice     parts[1] if parts[0] else parts[2] (null: undefined)
struct Expression;
using Part = std::unique_ptr<Expression>;
struct Expression {
  enum class Kind : uint8_t {
    kLiteral,
    kName,
    kList,
    kTuple,
    kDict,
    kField,
    kItem,
    kSlice,
    kCall,
    kFilter,
    kTest,
    kUnary,
    kBinary,
    kCompare,
    kChoice
  };
  Kind kind;
  int line;
  std::string text = {};
  Value value = {};
  std::vector<Part> parts = {};
  std::vector<std::pair<std::string, Part>> named = {};
};

constexpr int kMaxDepth = 200;  // of expressions and blocks in each other: no stack is at risk

Part make_part(Expression::Kind kind, int line, std::string text = {});

// The tokens of a template and the expressions in them; runtime/jinja_parser.cpp reads the statements.
class ExpressionParser {
 protected:
  using Mark = Token::Kind;
  using Level = Part (ExpressionParser::*)();
  ExpressionParser(const std::string& source, const std::string& name)
      : name_(name), tokens_(tokenize(source, name)) {}

  const Token& now() const { return tokens_[at_]; }
  [[noreturn]] void error(const std::string& what) const { fail(name_, now().line, what); }
  Token take() { return tokens_[at_++]; }
  bool is(const char* text) const {
    return (now().kind == Mark::kOperator || now().kind == Mark::kName) && now().text == text;
  }
  bool accept(const char* text) {
    const bool found = is(text);
    at_ += found;
    return found;
  }
  void need(const char* text) {
    if (!accept(text)) error(str("'", now().text, "' where '", text, "' is needed"));
  }
  void need(Mark mark, const char* what) {
    if (now().kind != mark) error(str("'", now().text, "' where ", what, " is needed"));
    ++at_;
  }
  std::string need_name() {
    if (now().kind != Mark::kName) error(str("'", now().text, "' where a name is needed"));
    return take().text;
  }
  // A level deeper while it lives.
  struct Deeper {
    explicit Deeper(ExpressionParser& p) : parser(p) {
      if (++p.depth_ > kMaxDepth) p.error(str("more than ", kMaxDepth, " levels"));
    }
    ~Deeper() { --parser.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    ExpressionParser& parser;
  };

  Part expression();   // a if b else c
  Part disjunction();  // without an `if`
  // One value, or several with commas between and maybe behind.
  Part tuple(Level one);
  Part filters(Part value);  // what | and `is` stand behind
  // a, b, key=c up to `end`.
  void arguments(const char* end, Expression& to);

  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;

 private:
  Part chain(Level operand, std::initializer_list<const char*> operators);
  Part unary(const char* op, Part operand, int line);
  Part conjunction();
  Part negation();
  std::string comparator() const;
  Part comparison();
  Part sum();
  Part concatenation();
  Part product();
  Part filtered();
  Part signed_value();
  Part primary();
  Part text();
  Part number();
  Part name();
  Part dict(int line);
  Part postfix(Part value);
  void test_arguments(Expression& test);
  Part subscript(Part value, int line);

  int depth_ = 0;
};

}  // namespace nestling::jinja
