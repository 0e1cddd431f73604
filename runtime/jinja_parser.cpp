#include "runtime/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace nestling::jinja {

namespace {

using Kind = Expression::Kind;

class Parser : private ExpressionParser {
 public:
  Parser(const std::string& source, const std::string& name) : ExpressionParser(source, name) {}

  std::vector<Statement> run() {
    std::vector<Statement> all = statements({});
    if (now().kind != Mark::kEnd)
      error("{% " + tokens_[at_ + 1].text + " %} without its beginning");
    return all;
  }

 private:
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
        all.push_back(
            {.kind = Statement::Kind::kOutput, .line = t.line, .a = tuple(&Parser::expression)});
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
    if (tag == "macro") return macro_block(line);
    if (tag == "with") return with_block(line);
    if (tag == "filter") return filter_block(line);
    if (tag == "break" || tag == "continue") {
      if (!in_loop_) fail(name_, line, "{% " + tag + " %} outside of a loop");
      need(Mark::kBlockEnd, "%}");
      return {.kind = tag == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue,
              .line = line};
    }
    if (tag == "generation") {
      Statement s{.kind = Statement::Kind::kScope, .line = line};
      need(Mark::kBlockEnd, "%}");
      const bool outer = std::exchange(in_loop_, false);  // what is within is a macro to Jinja2
      s.body = body("endgeneration", line);
      in_loop_ = outer;
      return s;
    }
    fail(name_, line, "the block {% " + tag + " %}");
  }
  // Up to behind the tag `end` of the block begun at `line`.
  std::vector<Statement> body(const char* end, int line) {
    std::vector<Statement> all = statements({end});
    end_tag(end, line);
    return all;
  }
  Statement macro_block(int line) {
    Statement s{.kind = Statement::Kind::kMacro, .line = line, .text = need_name()};
    need("(");
    while (!is(")")) {
      std::string parameter = need_name();
      s.parameters.emplace_back(std::move(parameter), accept("=") ? expression() : nullptr);
      if (!accept(",")) break;
    }
    need(")");
    need(Mark::kBlockEnd, "%}");
    const bool outer = std::exchange(in_loop_, false);
    s.body = body("endmacro", line);
    in_loop_ = outer;
    return s;
  }
  Statement with_block(int line) {
    Statement s{.kind = Statement::Kind::kScope, .line = line};
    while (now().kind != Mark::kBlockEnd) {
      if (!s.parameters.empty()) need(",");
      std::string variable = variable_name();
      need("=");
      s.parameters.emplace_back(std::move(variable), expression());
    }
    need(Mark::kBlockEnd, "%}");
    s.body = body("endwith", line);
    return s;
  }
  // The block's text as a variable of no other's name, filtered.
  Statement filter_block(int line) {
    constexpr const char* kText = "text of the filter";
    Statement set{.kind = Statement::Kind::kSet, .line = line, .names = {kText}};
    Statement print{.kind = Statement::Kind::kOutput, .line = line, .text = "a filter block"};
    print.a = make_part(Kind::kFilter, line, need_name());
    print.a->parts.push_back(make_part(Kind::kName, line, kText));
    if (accept("(")) arguments(")", *print.a);
    print.a = filters(std::move(print.a));
    need(Mark::kBlockEnd, "%}");
    set.body = body("endfilter", line);
    Statement s{.kind = Statement::Kind::kScope, .line = line};
    s.body.push_back(std::move(set));
    s.body.push_back(std::move(print));
    return s;
  }
  std::string variable_name() {
    std::string name = need_name();
    for (const char* taken : {"loop", "true", "false", "none", "True", "False", "None"})
      if (name == taken) error("a variable of the name " + name);
    return name;
  }
  std::vector<std::string> variable_names() {
    std::vector<std::string> names{variable_name()};
    while (accept(",")) names.push_back(variable_name());
    return names;
  }
  Statement for_block(int line) {
    Statement s{.kind = Statement::Kind::kFor, .line = line};
    if (accept("(")) {
      s.names = variable_names();
      need(")");
      if (s.names.size() == 1) error("a loop's variable in parentheses");
    } else {
      s.names = variable_names();
    }
    need("in");
    s.a = tuple(&Parser::disjunction);  // `if` is of the loop
    if (accept("if")) s.b = expression();
    need(Mark::kBlockEnd, "%}");
    const bool outer = std::exchange(in_loop_, true);
    s.body = statements({"else", "endfor"});
    in_loop_ = outer;
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
    Statement s{.kind = Statement::Kind::kSet, .line = line};
    if (tokens_[at_ + 1].kind == Mark::kOperator && tokens_[at_ + 1].text == ".") {
      s.text = need_name();
      need(".");
      s.field = need_name();
    } else {
      s.names = variable_names();
    }
    if (accept("=")) {
      s.a = tuple(&Parser::expression);
      need(Mark::kBlockEnd, "%}");
      return s;
    }
    if (s.names.size() > 1) error("a block as the value of several variables");
    need(Mark::kBlockEnd, "%}");
    s.body = body("endset", line);
    return s;
  }

  bool in_loop_ = false;  // where {% break %} stands for something
};

}  // namespace

std::vector<Statement> parse(const std::string& source, const std::string& name) {
  return Parser(source, name).run();
}

}  // namespace nestling::jinja
