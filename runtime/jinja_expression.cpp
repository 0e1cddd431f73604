#include "runtime/jinja_expression.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace nestling::jinja {

namespace {

using Kind = Expression::Kind;

}  // namespace

Part make_part(Kind kind, int line, std::string text) {
  return std::make_unique<Expression>(
      Expression{.kind = kind, .line = line, .text = std::move(text)});
}

// One value, or several with commas between and maybe behind.
Part ExpressionParser::tuple(Level one) {
  const int line = now().line;
  Part value = (this->*one)();
  if (!is(",")) return value;
  Part all = make_part(Kind::kTuple, line);
  all->parts.push_back(std::move(value));
  while (accept(",")) {
    if (is(")") || is("=") || now().kind == Mark::kBlockEnd || now().kind == Mark::kOutputEnd)
      break;
    all->parts.push_back((this->*one)());
  }
  return all;
}

Part ExpressionParser::expression() {
  const Deeper deeper(*this);
  const int line = now().line;
  Part value = disjunction();
  if (!accept("if")) return value;
  Part choice = make_part(Kind::kChoice, line);
  choice->parts.push_back(disjunction());
  choice->parts.push_back(std::move(value));
  choice->parts.push_back(accept("else") ? expression() : nullptr);
  return choice;
}

// operand (op operand)*, from the left.
Part ExpressionParser::chain(Level operand, std::initializer_list<const char*> operators) {
  Part left = (this->*operand)();
  for (;;) {
    const auto op =
        std::find_if(operators.begin(), operators.end(), [&](const char* o) { return is(o); });
    if (op == operators.end()) return left;
    Part both = make_part(Kind::kBinary, take().line, *op);
    both->parts.push_back(std::move(left));
    both->parts.push_back((this->*operand)());
    left = std::move(both);
  }
}

Part ExpressionParser::unary(const char* op, Part operand, int line) {
  Part whole = make_part(Kind::kUnary, line, op);
  whole->parts.push_back(std::move(operand));
  return whole;
}

Part ExpressionParser::disjunction() {
  return chain(&ExpressionParser::conjunction, {"or"});
}
Part ExpressionParser::conjunction() {
  return chain(&ExpressionParser::negation, {"and"});
}
Part ExpressionParser::negation() {
  const Deeper deeper(*this);
  const int line = now().line;
  return accept("not") ? unary("not", negation(), line) : comparison();
}

// "<", "in", "not in", ...: what compares here, or "".
std::string ExpressionParser::comparator() const {
  const bool negated = is("not") && tokens_[at_ + 1].text == "in";
  for (const char* op : {"==", "!=", "<", "<=", ">", ">=", "in"})
    if (is(op)) return op;
  return negated ? "not in" : "";
}

Part ExpressionParser::comparison() {
  const int line = now().line;
  Part first = sum();
  std::string op = comparator();
  if (op.empty()) return first;
  Part all = make_part(Kind::kCompare, line);
  all->parts.push_back(std::move(first));
  for (; !op.empty(); op = comparator()) {
    at_ += op == "not in" ? 2 : 1;
    all->named.emplace_back(op, sum());
  }
  return all;
}

Part ExpressionParser::sum() {
  return chain(&ExpressionParser::concatenation, {"+", "-"});
}
Part ExpressionParser::concatenation() {
  return chain(&ExpressionParser::product, {"~"});
}
Part ExpressionParser::product() {
  return chain(&ExpressionParser::filtered, {"*", "/", "//", "%"});
}
// A filter is applied to the value with its sign: -1 | string is "-1".
Part ExpressionParser::filtered() {
  return filters(signed_value());
}
Part ExpressionParser::signed_value() {
  const Deeper deeper(*this);
  const int line = now().line;
  for (const char* sign : {"-", "+"})
    if (accept(sign)) return unary(sign, signed_value(), line);
  return postfix(primary());
}

Part ExpressionParser::primary() {
  const Token t = now();
  if (t.kind == Mark::kString) return text();
  if (t.kind == Mark::kNumber) return number();
  if (t.kind == Mark::kName) return name();
  if (accept("(")) {
    if (accept(")")) return make_part(Kind::kTuple, t.line);
    Part inner = tuple(&ExpressionParser::expression);
    need(")");
    return inner;
  }
  if (accept("[")) {
    Part list = make_part(Kind::kList, t.line);
    arguments("]", *list);
    if (!list->named.empty()) error("'=' in a list");
    return list;
  }
  if (accept("{")) return dict(t.line);
  error(str("'", t.text, "' where a value is needed"));
}

// Adjacent strings are one.
Part ExpressionParser::text() {
  Part p = make_part(Kind::kLiteral, now().line);
  std::string all;
  while (now().kind == Mark::kString) all += take().text;
  p->value = Value(std::move(all));
  return p;
}

Part ExpressionParser::number() {
  const Token t = take();
  Part p = make_part(Kind::kLiteral, t.line);
  const Json number = Json::parse(t.text, nullptr, false);
  const bool fraction = t.text.find('.') != std::string::npos;
  if (fraction && number.is_number_float())
    p->value = Value(number.get<double>());
  else if (!fraction && number.is_number_integer() && number.get<uint64_t>() <= INT64_MAX)
    p->value = Value(number.get<int64_t>());
  else
    fail(name_, t.line, "the number " + t.text);
  return p;
}

Part ExpressionParser::name() {
  const Token t = take();
  Part p = make_part(Kind::kLiteral, t.line);
  if (t.text == "true" || t.text == "True")
    p->value = Value(true);
  else if (t.text == "false" || t.text == "False")
    p->value = Value(false);
  else if (t.text == "none" || t.text == "None")
    p->value = Value::none();
  else
    return make_part(Kind::kName, t.line, t.text);
  return p;
}

Part ExpressionParser::dict(int line) {
  Part p = make_part(Kind::kDict, line);
  while (!is("}")) {
    p->parts.push_back(expression());
    need(":");
    p->parts.push_back(expression());
    if (!accept(",")) break;
  }
  need("}");
  return p;
}

// a, b, key=c up to `end`.
void ExpressionParser::arguments(const char* end, Expression& to) {
  while (!is(end)) {
    if (now().kind == Mark::kName && tokens_[at_ + 1].kind == Mark::kOperator &&
        tokens_[at_ + 1].text == "=") {
      std::string key = take().text;
      need("=");
      to.named.emplace_back(std::move(key), expression());
    } else {
      to.parts.push_back(expression());
    }
    if (!accept(",")) break;
  }
  need(end);
}

Part ExpressionParser::postfix(Part value) {
  for (;;) {
    const int line = now().line;
    Part outer;
    if (accept(".")) {
      outer = make_part(Kind::kField, line, need_name());
      outer->parts.push_back(std::move(value));
    } else if (accept("[")) {
      outer = subscript(std::move(value), line);
    } else if (accept("(")) {
      outer = make_part(Kind::kCall, line);
      outer->parts.push_back(std::move(value));
      arguments(")", *outer);
    } else {
      return value;
    }
    value = std::move(outer);
  }
}

Part ExpressionParser::filters(Part value) {
  for (;;) {
    const int line = now().line;
    Part outer;
    if (accept("|")) {
      outer = make_part(Kind::kFilter, line, need_name());
      outer->parts.push_back(std::move(value));
      if (accept("(")) arguments(")", *outer);
    } else if (accept("is")) {
      const bool negated = accept("not");
      outer = make_part(Kind::kTest, line, need_name());
      outer->parts.push_back(std::move(value));
      test_arguments(*outer);
      if (negated) outer = unary("not", std::move(outer), line);
    } else {
      return value;
    }
    value = std::move(outer);
  }
}

// Behind a test: in parentheses, or one value, which all but a few words begin.
void ExpressionParser::test_arguments(Expression& test) {
  if (accept("(")) return arguments(")", test);
  if (is("is")) error("a chain of tests");
  if (is("else") || is("or") || is("and")) return;
  if (is("if") || is("in") || is("not")) error(str("'", now().text, "' as the argument of a test"));
  const Mark mark = now().kind;
  if (mark == Mark::kName || mark == Mark::kString || mark == Mark::kNumber || is("[") || is("{"))
    test.parts.push_back(postfix(primary()));
}

Part ExpressionParser::subscript(Part value, int line) {
  Part first = is(":") ? nullptr : expression();
  Part outer = make_part(is(":") ? Kind::kSlice : Kind::kItem, line);
  outer->parts.push_back(std::move(value));
  outer->parts.push_back(std::move(first));
  if (accept(":")) {
    outer->parts.push_back(is("]") || is(":") ? nullptr : expression());
    const bool step = accept(":") && !is("]");
    outer->parts.push_back(step ? expression() : nullptr);
  }
  need("]");
  return outer;
}

}  // namespace nestling::jinja
