#include "runtime/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "data/utf8.h"
#include "kernels/core/check.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Token::Kind;

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}
bool is_hex(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0;
}
bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// Newlines as \n, and the last one dropped.
std::string normalized(const std::string& source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n';
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(const std::string& source, const std::string& name)
      : text_(normalized(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) {
      const size_t tag = next_tag();
      const bool block = tag < text_.size() && text_[tag + 1] != '{';
      plain(tag, block);
      if (tag == text_.size()) break;
      if (raw()) continue;
      const char kind = text_[tag + 1];
      advance(tag + 2);
      if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) advance(at_ + 1);
      kind == '#' ? comment() : code(kind == '%');
    }
    tokens_.push_back({Kind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  size_t next_tag() const {
    for (size_t i = at_; i + 1 < text_.size(); ++i)
      if (text_[i] == '{' && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#'))
        return i;
    return text_.size();
  }
  void advance(size_t to) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  // The text before a tag: `-` takes all whitespace, a block or comment the blanks of its line.
  void plain(size_t tag, bool block) {
    std::string text = text_.substr(at_, tag - at_);
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
    if (tag < text_.size() && sign == '-') {
      text = strip(text, false, true);
    } else if (block && sign != '+') {
      const size_t line = text.rfind('\n') + 1;  // 0: the text before the tag has no newline
      const bool starts_line = line > 0 || at_ == 0 || text_[at_ - 1] == '\n';
      if (starts_line && strip(text.substr(line), true, false).empty()) text.erase(line);
    }
    if (!text.empty()) tokens_.push_back({Kind::kText, text, line_});
    advance(tag);
  }
  // Bytes of white space at `at`.
  size_t spaces_at(size_t at) const {
    size_t to = at;
    while (to < text_.size() && space_at(text_, to) > 0) to += space_at(text_, to);
    return to - at;
  }
  // Behind a tag that ended in `sign`.
  void after(char sign, bool block) {
    size_t to = at_;
    if (sign == '-')
      to += spaces_at(to);
    else if (block && sign != '+' && to < text_.size() && text_[to] == '\n')
      ++to;
    advance(to);
  }
  // The end of a tag `{% name sign%}` at `at`, before its sign; npos: another tag.
  size_t end_of_name(size_t at, std::string_view name) const {
    at += 2;
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) ++at;
    at += spaces_at(at);
    if (!std::string_view(text_).substr(at).starts_with(name)) return text_.npos;
    at += name.size();
    return at + spaces_at(at);
  }
  // {% raw %} at at_ and all up to behind its end, as text: its first newline stays.
  bool raw() {
    const size_t end = text_[at_ + 1] == '%' ? end_of_name(at_, "raw") : text_.npos;
    const std::string_view rest = std::string_view(text_).substr(std::min(end, text_.size()));
    if (!rest.starts_with("%}") && !rest.starts_with("-%}")) return false;
    const int begin = line_;
    const char sign = rest[0];
    advance(end + (sign == '-' ? 3 : 2));
    after(sign, false);
    for (size_t tag = text_.find("{%", at_); tag != text_.npos; tag = text_.find("{%", tag + 2)) {
      const size_t close = end_of_name(tag, "endraw");
      if (close >= text_.size()) continue;
      const char mark = text_[close] == '-' || text_[close] == '+' ? text_[close] : ' ';
      const size_t behind = close + (mark == ' ' ? 0 : 1);
      if (text_.compare(behind, 2, "%}") != 0) continue;
      plain(tag, true);
      advance(behind + 2);
      after(mark, true);
      return true;
    }
    fail(name_, begin, "no {% endraw %} for the block begun here");
  }
  void comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string::npos) fail(name_, line_, "a comment that is not closed");
    const char sign = end > at_ ? text_[end - 1] : ' ';  // {#-#}: that one is the beginning's
    advance(end + 2);
    after(sign, true);
  }
  void code(bool block) {
    tokens_.push_back({block ? Kind::kBlockBegin : Kind::kOutputBegin, "", line_});
    const int begin = line_;
    const std::string_view end = block ? "%}" : "}}";
    for (int open = 0;;) {
      advance(at_ + spaces_at(at_));
      if (at_ >= text_.size()) fail(name_, begin, "a tag that is not closed");
      const std::string_view rest = std::string_view(text_).substr(at_);
      const bool sign = rest[0] == '-' || (block && rest[0] == '+');
      if (open == 0 && rest.substr(sign ? 1 : 0).starts_with(end)) {
        const char mark = sign ? rest[0] : ' ';
        advance(at_ + (sign ? 3 : 2));
        tokens_.push_back({block ? Kind::kBlockEnd : Kind::kOutputEnd, "", line_});
        return after(mark, block);
      }
      one();
      const std::string& last = tokens_.back().text;
      if (tokens_.back().kind != Kind::kOperator) continue;
      open += last == "(" || last == "[" || last == "{";
      open -= last == ")" || last == "]" || last == "}";
    }
  }
  // The token at at_.
  void one() {
    const char c = text_[at_];
    size_t end = at_ + 1;
    if (c == '\'' || c == '"') return string();
    if (is_digit(c)) {
      while (end < text_.size() && (is_digit(text_[end]) || text_[end] == '.')) ++end;
      return push(Kind::kNumber, end);
    }
    if (is_name(c)) {
      while (end < text_.size() && is_name(text_[end])) ++end;
      return push(Kind::kName, end);
    }
    constexpr std::array<std::string_view, 5> kPairs = {"==", "!=", "<=", ">=", "//"};
    for (const std::string_view pair : kPairs)
      if (std::string_view(text_).substr(at_).starts_with(pair)) end = at_ + 2;
    if (end == at_ + 1 && std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos)
      fail(name_, line_,
           "'" + text_.substr(at_, utf8_step(text_, at_).bytes) + "' in an expression");
    push(Kind::kOperator, end);
  }
  void push(Kind kind, size_t end) {
    tokens_.push_back({kind, text_.substr(at_, end - at_), line_});
    advance(end);
  }
  // What stands at `at`, behind a backslash, as Python reads it; gives the bytes of it.
  size_t escape(size_t at, std::string* value) {
    constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    const char c = text_[at];
    if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
      *value += kTo[known];
      return 1;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (is_digit(c) || c == 'N' || c == '\n')
        fail(name_, line_, std::string("the escape \\") + c + " in a string");
      *value += '\\';  // no escape: both stay
      *value += c;
      return 1;
    }
    const std::string code = text_.substr(at + 1, digits);
    const bool whole = code.size() == digits && std::all_of(code.begin(), code.end(), is_hex);
    const uint64_t point = whole ? std::stoull(code, nullptr, 16) : ~uint64_t{0};
    if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))
      fail(name_, line_, "the escape \\" + text_.substr(at, 1 + digits) + " in a string");
    utf8_append(value, static_cast<char32_t>(point));
    return 1 + digits;
  }
  void string() {
    const char quote = text_[at_];
    const int line = line_;
    std::string value;
    size_t i = at_ + 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] != '\\') {
        value += text_[i];
        continue;
      }
      if (++i == text_.size()) break;
      i += escape(i, &value) - 1;
    }
    if (i >= text_.size()) fail(name_, line, "a string that is not closed");
    advance(i + 1);
    tokens_.push_back({Kind::kString, value, line});
  }

  std::string text_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

void fail(const std::string& name, int line, const std::string& what) {
  throw Error(str(name, ": line ", line, ": ", what), ErrorKind::kInput);
}

std::vector<Token> tokenize(const std::string& source, const std::string& name) {
  return Lexer(source, name).run();
}

}  // namespace nestling::jinja
