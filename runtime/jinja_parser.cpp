#include "runtime/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include "runtime/jinja_lexer.h"

namespace nestling::jinja {

namespace {

using Kind = Expression::Kind;
using Mark = Token::Kind;

constexpr int kMaxDepth = 200;  // of expressions and blocks in each other: no stack is at risk

Part make(Kind kind, int line, std::string text = {}) {
  return std::make_unique<Expression>(
      Expression{.kind = kind, .line = line, .text = std::move(text)});
}

class Parser {
 public:
  Parser(const std::string& source, const std::string& name)
      : name_(name), tokens_(tokenize(source, name)) {}

  std::vector<Statement> run() {
    std::vector<Statement> all = statements({});
    if (now().kind != Mark::kEnd)
      error("{% " + tokens_[at_ + 1].text + " %} without its beginning");
    return all;
  }

 private:
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
    explicit Deeper(Parser& p) : parser(p) {
      if (++p.depth_ > kMaxDepth) p.error(str("more than ", kMaxDepth, " levels"));
    }
    ~Deeper() { --parser.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    Parser& parser;
  };

  // Up to a tag of one of these names, which is left.
  std::vector<Statement> statements(std::initializer_list<const char*> ends) {
    const Deeper deeper(*this);
    std::vector<Statement> all;
    for (;;) {
      const Token t = now();
      if (t.kind == Mark::kText) {
        all.push_back({.kind = Statement::Kind::kText, .line = t.line, .text = take().text});
      } else if (t.kind == Mark::kOutputBegin) {
        ++at_;
        all.push_back({.kind = Statement::Kind::kOutput, .line = t.line, .a = expression()});
        need(Mark::kOutputEnd, "}}");
      } else if (t.kind == Mark::kBlockBegin) {
        const std::string& tag = tokens_[at_ + 1].text;
        if (std::find(ends.begin(), ends.end(), tag) != ends.end()) return all;
        if (tag.starts_with("end") || tag == "else" || tag == "elif") return all;
        ++at_;
        all.push_back(block());
      } else {
        return all;
      }
    }
  }
  // Whether the tag that comes next has this name; it is taken up to behind its name.
  bool accept_tag(const char* tag) {
    if (now().kind != Mark::kBlockBegin || tokens_[at_ + 1].text != tag) return false;
    at_ += 2;
    return true;
  }
  void end_tag(const char* tag, int line) {
    if (!accept_tag(tag)) fail(name_, line, str("no {% ", tag, " %} for the block begun here"));
    need(Mark::kBlockEnd, "%}");
  }
  Statement block() {
    const int line = now().line;
    const std::string tag = need_name();
    if (tag == "for") return for_block(line);
    if (tag == "if") return if_block(line);
    if (tag == "set") return set_block(line);
    if (tag == "macro") {
      Statement s{.kind = Statement::Kind::kMacro, .line = line, .text = need_name()};
      need("(");
      while (!is(")")) {
        std::string parameter = need_name();
        s.parameters.emplace_back(std::move(parameter), accept("=") ? expression() : nullptr);
        if (!accept(",")) break;
      }
      need(")");
      need(Mark::kBlockEnd, "%}");
      s.body = statements({"endmacro"});
      end_tag("endmacro", line);
      return s;
    }
    if (tag == "generation") {
      Statement s{.kind = Statement::Kind::kScope, .line = line};
      need(Mark::kBlockEnd, "%}");
      s.body = statements({"endgeneration"});
      end_tag("endgeneration", line);
      return s;
    }
    fail(name_, line, "the block {% " + tag + " %}");
  }
  Statement for_block(int line) {
    Statement s{.kind = Statement::Kind::kFor, .line = line, .text = need_name()};
    while (accept(",")) s.text += "," + need_name();
    need("in");
    s.a = disjunction();  // `if` is of the loop
    if (accept("if")) s.b = expression();
    need(Mark::kBlockEnd, "%}");
    s.body = statements({"else", "endfor"});
    if (accept_tag("else")) {
      need(Mark::kBlockEnd, "%}");
      s.otherwise = statements({"endfor"});
    }
    end_tag("endfor", line);
    return s;
  }
  Statement if_block(int line) {
    Statement s{.kind = Statement::Kind::kIf, .line = line, .a = disjunction()};
    need(Mark::kBlockEnd, "%}");
    s.body = statements({"elif", "else", "endif"});
    const Deeper deeper(*this);
    if (accept_tag("elif")) {
      s.otherwise.push_back(if_block(line));  // takes the endif
      return s;
    }
    if (accept_tag("else")) {
      need(Mark::kBlockEnd, "%}");
      s.otherwise = statements({"endif"});
    }
    end_tag("endif", line);
    return s;
  }
  Statement set_block(int line) {
    Statement s{.kind = Statement::Kind::kSet, .line = line, .text = need_name()};
    if (accept(".")) s.field = need_name();
    if (accept("=")) {
      s.a = expression();
      need(Mark::kBlockEnd, "%}");
      return s;
    }
    need(Mark::kBlockEnd, "%}");
    s.body = statements({"endset"});
    end_tag("endset", line);
    return s;
  }

  Part expression() {
    const Deeper deeper(*this);
    const int line = now().line;
    Part value = disjunction();
    if (!accept("if")) return value;
    Part choice = make(Kind::kChoice, line);
    choice->parts.push_back(disjunction());
    choice->parts.push_back(std::move(value));
    choice->parts.push_back(accept("else") ? expression() : nullptr);
    return choice;
  }
  using Level = Part (Parser::*)();
  // operand (op operand)*, from the left.
  Part chain(Level operand, std::initializer_list<const char*> operators) {
    Part left = (this->*operand)();
    for (;;) {
      const auto op =
          std::find_if(operators.begin(), operators.end(), [&](const char* o) { return is(o); });
      if (op == operators.end()) return left;
      Part both = make(Kind::kBinary, take().line, *op);
      both->parts.push_back(std::move(left));
      both->parts.push_back((this->*operand)());
      left = std::move(both);
    }
  }
  Part unary(const char* op, Part operand, int line) {
    Part whole = make(Kind::kUnary, line, op);
    whole->parts.push_back(std::move(operand));
    return whole;
  }
  Part disjunction() { return chain(&Parser::conjunction, {"or"}); }
  Part conjunction() { return chain(&Parser::negation, {"and"}); }
  Part negation() {
    const Deeper deeper(*this);
    const int line = now().line;
    return accept("not") ? unary("not", negation(), line) : comparison();
  }
  // "<", "in", "not in", ...: what compares here, or "".
  std::string comparator() const {
    const bool negated = is("not") && tokens_[at_ + 1].text == "in";
    for (const char* op : {"==", "!=", "<", "<=", ">", ">=", "in"})
      if (is(op)) return op;
    return negated ? "not in" : "";
  }
  Part comparison() {
    Part left = sum();
    const std::string op = comparator();
    if (op.empty()) return left;
    const bool negated = op == "not in";
    Part both = make(Kind::kBinary, now().line, negated ? "in" : op);
    at_ += negated ? 2 : 1;
    both->parts.push_back(std::move(left));
    both->parts.push_back(sum());
    if (!comparator().empty()) error("a chain of comparisons");
    const int line = both->line;
    return negated ? unary("not", std::move(both), line) : std::move(both);
  }
  Part sum() { return chain(&Parser::concatenation, {"+", "-"}); }
  Part concatenation() { return chain(&Parser::product, {"~"}); }
  Part product() { return chain(&Parser::filtered, {"*", "/", "//", "%"}); }
  // A filter is applied to the value with its sign: -1 | string is "-1".
  Part filtered() { return filters(signed_value()); }
  Part signed_value() {
    const Deeper deeper(*this);
    const int line = now().line;
    for (const char* sign : {"-", "+"})
      if (accept(sign)) return unary(sign, signed_value(), line);
    return postfix(primary());
  }
  Part primary() {
    const Token t = now();
    if (t.kind == Mark::kString) {
      Part p = make(Kind::kLiteral, t.line);
      while (now().kind == Mark::kString)  // adjacent strings are one
        p->value = (p->value.is_null() ? "" : p->value.get<std::string>()) + take().text;
      return p;
    }
    if (t.kind == Mark::kNumber) {
      Part p = make(Kind::kLiteral, t.line);
      p->value = Json::parse(take().text, nullptr, false);
      const bool fraction = t.text.find('.') != std::string::npos;
      if (p->value.is_discarded() || p->value.is_number_float() != fraction)
        fail(name_, t.line, "the number " + t.text);
      return p;
    }
    if (t.kind == Mark::kName) return name();
    if (accept("(")) {
      Part inner = expression();
      if (is(",")) error("a tuple");
      need(")");
      return inner;
    }
    if (accept("[")) {
      Part list = make(Kind::kList, t.line);
      arguments("]", *list);
      if (!list->named.empty()) error("'=' in a list");
      return list;
    }
    if (accept("{")) return dict(t.line);
    error(str("'", t.text, "' where a value is needed"));
  }
  Part name() {
    const Token t = take();
    Part p = make(Kind::kLiteral, t.line);
    if (t.text == "true" || t.text == "True")
      p->value = true;
    else if (t.text == "false" || t.text == "False")
      p->value = false;
    else if (t.text != "none" && t.text != "None")
      return make(Kind::kName, t.line, t.text);
    return p;
  }
  Part dict(int line) {
    Part p = make(Kind::kDict, line);
    while (!is("}")) {
      if (now().kind != Mark::kString) error("a key that is no string");
      std::string key = take().text;
      need(":");
      p->named.emplace_back(std::move(key), expression());
      if (!accept(",")) break;
    }
    need("}");
    return p;
  }
  // a, b, key=c up to `end`.
  void arguments(const char* end, Expression& to) {
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
  Part postfix(Part value) {
    for (;;) {
      const int line = now().line;
      Part outer;
      if (accept(".")) {
        outer = make(Kind::kField, line, need_name());
        outer->parts.push_back(std::move(value));
      } else if (accept("[")) {
        outer = subscript(std::move(value), line);
      } else if (accept("(")) {
        outer = make(Kind::kCall, line);
        outer->parts.push_back(std::move(value));
        arguments(")", *outer);
      } else {
        return value;
      }
      value = std::move(outer);
    }
  }
  Part filters(Part value) {
    for (;;) {
      const int line = now().line;
      Part outer;
      if (accept("|")) {
        outer = make(Kind::kFilter, line, need_name());
        outer->parts.push_back(std::move(value));
        if (accept("(")) arguments(")", *outer);
      } else if (accept("is")) {
        const bool negated = accept("not");
        outer = make(Kind::kTest, line, need_name());
        outer->parts.push_back(std::move(value));
        no_argument();
        if (negated) outer = unary("not", std::move(outer), line);
      } else {
        return value;
      }
      value = std::move(outer);
    }
  }
  // Behind a test: all but a few words would be its argument there, `if` too.
  void no_argument() const {
    const bool name = now().kind == Mark::kName && !is("else") && !is("or") && !is("and");
    if (is("is")) error("a chain of tests");
    if (name || now().kind == Mark::kString || now().kind == Mark::kNumber || is("(") || is("[") ||
        is("{"))
      error(str("'", now().text, "' as the argument of a test"));
  }
  Part subscript(Part value, int line) {
    Part first = is(":") ? nullptr : expression();
    Part outer = make(is(":") ? Kind::kSlice : Kind::kItem, line);
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

  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

void fail(const std::string& name, int line, const std::string& what) {
  throw Error(str(name, ": line ", line, ": ", what), ErrorKind::kInput);
}

std::vector<Statement> parse(const std::string& source, const std::string& name) {
  return Parser(source, name).run();
}

}  // namespace nestling::jinja
