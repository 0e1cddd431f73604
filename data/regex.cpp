#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "kernels/core/check.h"

namespace nestling {
namespace {

pcre2_code* as_code(void* code) {
  return static_cast<pcre2_code*>(code);
}

std::string message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Whether \p{name} is of a script. To PCRE2 such a name alone is of everything the script is used with, to Oniguruma of
// the script.
bool is_script(std::string_view name) {
  const std::string pattern = str("\\p{sc:", name, "}");
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF, &error, &at, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// Copies an Oniguruma pattern, giving each construct the form that means the same to PCRE2.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\')
        escape();
      else if (in_class_)
        class_char(c);
      else
        outer_char(c);
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(str("regex ", in_, ": ", what, " at byte ", at_, " is not supported"),
                ErrorKind::kInput);
  }
  void copy(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  void replace(size_t n, std::string_view by) {
    out_ += by;
    at_ += n;
  }
  void escape() {
    if (at_ + 1 >= in_.size()) fail("a lone backslash");
    const char c = in_[at_ + 1];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!letter || std::string_view("nrtdD").find(c) != std::string_view::npos) return copy(2);
    if (c == 's') return replace(2, "\\p{White_Space}");
    if (c == 'S') return replace(2, "\\P{White_Space}");
    if (c == 'w') {
      constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
      return replace(2, in_class_ ? std::string(kWord) : str("[", kWord, "]"));
    }
    const bool braces = at_ + 2 < in_.size() && in_[at_ + 2] == '{';
    if (braces && (c == 'p' || c == 'P' || c == 'x')) {
      const size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) fail("an unclosed brace");
      std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
      const bool negated = name.starts_with('^');
      if (negated) name.remove_prefix(1);
      if (c == 'x' || !is_script(name)) return copy(close + 1 - at_);
      return replace(close + 1 - at_, str("\\", c, negated ? "{^sc:" : "{sc:", name, "}"));
    }
    fail(str("\\", c));
  }
  void class_char(char c) {
    if (c == '[') fail("a class within a class");
    if (in_.substr(at_).starts_with("&&")) fail("&& in a class");
    if (c == ']') in_class_ = false;
    copy(1);
  }
  void outer_char(char c) {
    if (c == '^' || c == '$') fail(str("the line anchor ", c));
    if (c == '{') return repeat();
    if (c == '(' && in_.substr(at_).starts_with("(?")) return group();
    if (c == '[') {
      in_class_ = true;
      const std::string_view rest = in_.substr(at_);
      if (rest.starts_with("[]") || rest.starts_with("[^]")) fail("] first in a class");
      return copy(rest.starts_with("[^") ? 2 : 1);
    }
    copy(1);
  }
  void repeat() {
    const size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) fail("a lone {");
    if (in_.find_first_not_of("0123456789,", at_ + 1) != close || in_[at_ + 1] == ',')
      fail("a { that is no repeat");
    copy(close + 1 - at_);
    if (at_ < in_.size() && in_[at_] == '+') fail("+ after a counted repeat");
  }
  void group() {
    for (const char* known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"})
      if (in_.substr(at_).starts_with(known)) return copy(std::string_view(known).size());
    fail("this kind of group");
  }

  std::string_view in_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

void detail::RegexDelete::operator()(void* code) const noexcept {
  pcre2_code_free(as_code(code));
}
void detail::MatchDelete::operator()(void* data) const noexcept {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(data));
}

Regex::Regex(std::string_view oniguruma_pattern) {
  compile(Translator(oniguruma_pattern).run(), PCRE2_UTF | PCRE2_UCP);
}

Regex Regex::literal(std::string_view text) {
  Regex regex;
  regex.compile(std::string(text), PCRE2_UTF | PCRE2_LITERAL);
  return regex;
}

void Regex::compile(const std::string& pattern, uint32_t options) {
  int error = 0;
  PCRE2_SIZE at = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                            &error, &at, nullptr));
  NESTLING_CHECK_INPUT(code_, "regex ", pattern, ": ", message(error), " at byte ", at);
  uint32_t matches_empty = 0;
  pcre2_pattern_info(as_code(code_.get()), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  NESTLING_CHECK_INPUT(!matches_empty, "regex ", pattern, " matches empty text");
  const int jit = pcre2_jit_compile(as_code(code_.get()), PCRE2_JIT_COMPLETE);
  NESTLING_CHECK(jit == 0, "regex ", pattern, ": cannot compile to machine code: ", message(jit));
}

RegexMatcher::RegexMatcher(const Regex& regex)
    : regex_(regex), data_(pcre2_match_data_create(1, nullptr)) {
  NESTLING_CHECK(data_, "out of memory for a regex match");
}

std::optional<std::pair<size_t, size_t>> RegexMatcher::next(std::string_view text, size_t from) {
  auto* data = static_cast<pcre2_match_data*>(data_.get());
  const auto match = [&](uint32_t options) {
    return pcre2_match(as_code(regex_.code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()),
                       text.size(), from, PCRE2_NO_UTF_CHECK | options, data, nullptr);
  };
  int found = match(0);
  // The interpreter finds the same match with a stack of its own.
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  NESTLING_CHECK_INPUT(found >= 0, "regex match failed at byte ", from, ": ", message(found));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
  return std::pair<size_t, size_t>{range[0], range[1]};
}

}  // namespace nestling
