// regex.h - the regular expressions of tokenizer files, run by PCRE2 (compiled to machine code).
//
// Dialect       those files are written for Oniguruma (Ruby syntax, Unicode). Constructs that mean
//               the same in PCRE2 pass; \s, \S and \w are rewritten to Oniguruma's meaning
//               (Unicode's White_Space; PCRE2 also counts U+180E); the rest is refused, never
//               reinterpreted: ^ and $ (line anchors there), \b \h \W and other escapes, {n,m}+ ,
//               nested classes, inline options but (?i:...).
// Unicode       PCRE2's tables (14 in 10.42). The `tokenizers` package has those of 16 for Digits and
//               for what a single_word token may not touch, older ones for Split.
// Threads       a Regex is immutable; each thread uses a RegexMatcher of its own.
// Errors        Error of kind kInput with the pattern and the place in it.
#pragma once
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace nestling {

namespace detail {
struct RegexDelete {
  void operator()(void* code) const noexcept;
};
struct MatchDelete {
  void operator()(void* data) const noexcept;
};
}  // namespace detail

class Regex {
 public:
  explicit Regex(std::string_view oniguruma_pattern);
  static Regex literal(std::string_view text);  // matches exactly this text

 private:
  Regex() = default;
  void compile(const std::string& pattern, uint32_t options);
  friend class RegexMatcher;
  std::unique_ptr<void, detail::RegexDelete> code_;  // pcre2_code, whose header stays in regex.cpp
};

class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);
  // The leftmost match that begins at or after `from`, as [begin, end); never empty. `text` must be
  // valid UTF-8 and `from` a character's first byte; what stands before `from` is seen by
  // lookbehind.
  std::optional<std::pair<size_t, size_t>> next(std::string_view text, size_t from);

 private:
  const Regex& regex_;
  std::unique_ptr<void, detail::MatchDelete> data_;
};

}  // namespace nestling
