#include "trainer/config_value.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>

#include "kernels/core/check.h"
#include "model/choices.h"

namespace nestling {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Without the `_` between digits; absent if one stands elsewhere.
std::optional<std::string> without_separators(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1]))
      return std::nullopt;
  }
  return out;
}

struct Decimal {
  bool negative = false;
  std::string digits;
  int64_t exponent = 0;  // value = digits * 10^exponent
};

std::optional<Decimal> split_decimal(const std::string& raw) {
  const auto text = without_separators(raw);
  if (!text) return std::nullopt;
  Decimal d;
  size_t i = 0;
  if (i < text->size() && ((*text)[i] == '+' || (*text)[i] == '-'))
    d.negative = (*text)[i++] == '-';
  for (; i < text->size() && is_digit((*text)[i]); ++i) d.digits += (*text)[i];
  if (i < text->size() && (*text)[i] == '.')
    for (++i; i < text->size() && is_digit((*text)[i]); ++i, --d.exponent) d.digits += (*text)[i];
  if (d.digits.empty()) return std::nullopt;
  if (i == text->size()) return d;
  if ((*text)[i] != 'e' && (*text)[i] != 'E') return std::nullopt;
  const char* begin = text->data() + i + 1;
  const char* end = text->data() + text->size();
  if (begin != end && *begin == '+' && begin + 1 != end && is_digit(begin[1])) ++begin;
  int exponent = 0;
  const auto [stop, failed] = std::from_chars(begin, end, exponent);
  if (failed != std::errc() || stop != end || exponent < -1000 || exponent > 1000)
    return std::nullopt;
  d.exponent += exponent;
  return d;
}

template <class T>
std::optional<T> parse_whole(const std::string& text) {
  auto d = split_decimal(text);
  if (!d) return std::nullopt;
  d->digits.erase(0, std::min(d->digits.find_first_not_of('0'), d->digits.size()));
  if (d->digits.empty()) return T{0};
  while (d->digits.back() == '0') {
    d->digits.pop_back();
    ++d->exponent;
  }
  if (d->exponent < 0 || static_cast<int64_t>(d->digits.size()) + d->exponent > 20)
    return std::nullopt;
  const std::string whole =
      (d->negative ? "-" : "") + d->digits + std::string(static_cast<size_t>(d->exponent), '0');
  T value = 0;
  const auto [stop, failed] = std::from_chars(whole.data(), whole.data() + whole.size(), value);
  if (failed != std::errc() || stop != whole.data() + whole.size()) return std::nullopt;
  return value;
}

template <class T>
std::string shortest(T value) {
  char buffer[64];
  const auto [stop, failed] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  NESTLING_CHECK(failed == std::errc(), "a number needs more than 64 characters");
  return {buffer, stop};
}

bool reads_back_plain(const std::string& s) {
  const auto inside = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_./-", c) != nullptr;
  };
  if (s.empty() || !std::all_of(s.begin(), s.end(), [&](char c) { return c != 0 && inside(c); }))
    return false;
  if (s[0] == '-' || s[0] == '.') return false;
  for (const char* null : {"null", "Null", "NULL"})
    if (s == null) return false;
  return true;
}

}  // namespace

std::optional<int64_t> parse_integer(const std::string& text) {
  return parse_whole<int64_t>(text);
}

std::optional<uint64_t> parse_seed(const std::string& text) {
  return parse_whole<uint64_t>(text);
}

std::optional<double> parse_number(const std::string& text) {
  if (text.ends_with('%')) {
    if (text.ends_with("%%")) return std::nullopt;
    const auto percent = parse_number(text.substr(0, text.size() - 1));
    return percent ? std::optional(*percent / 100) : std::nullopt;
  }
  if (!split_decimal(text)) return std::nullopt;
  const std::string plain = *without_separators(text);
  const char* begin = plain.data() + (plain[0] == '+' ? 1 : 0);
  const char* end = plain.data() + plain.size();
  double value = 0;
  const auto [stop, failed] = std::from_chars(begin, end, value);
  if (failed != std::errc() || stop != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string print_value(int64_t value) {
  return shortest(value);
}
std::string print_value(uint64_t value) {
  return shortest(value);
}
std::string print_value(double value) {
  return shortest(value);
}
std::string print_value(bool value) {
  return value ? "true" : "false";
}
std::string print_value(const std::string& value) {
  if (reads_back_plain(value)) return value;
  std::string quoted = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string print_value(const Numbers& value) {
  std::string out;
  for (const double x : value) out += (out.empty() ? "" : ", ") + print_value(x);
  return "[" + out + "]";
}
std::string print_value(const Texts& value) {
  std::string out;
  for (const std::string& x : value) out += (out.empty() ? "" : ", ") + print_value(x);
  return "[" + out + "]";
}
std::string print_value(const Terms& value) {
  if (value.size() == 1 && value[0].value.empty()) return print_value(value[0].name);
  std::string out;
  for (const Term& t : value)
    out += (out.empty() ? "" : ", ") + print_value(t.name) + ": " + print_value(t.value);
  return "{" + out + "}";
}

std::string describe(const IntegerRule& rule) {
  return str("an integer from ", rule.low, " to ", rule.high);
}
std::string describe(const NumberRule& rule) {
  return str("a number ", rule.above ? "above " : "from ", shortest(rule.low), " to ",
             shortest(rule.high));
}
std::string describe(const TextRule& rule) {
  if (rule.file_name) return "a plain file name (no '/', not beginning with '.')";
  if (rule.width) return "a width: 75% of the parent's, or 48";
  if (rule.letters != nullptr) return str("text of the characters ", rule.letters);
  if (rule.one_of.empty()) return rule.filled ? "text, not empty" : "text";
  std::string all;
  for (size_t i = 0; i < rule.one_of.size(); ++i) {
    if (i > 0) all += i + 1 == rule.one_of.size() ? " or " : ", ";
    all += rule.one_of[i].empty() ? "\"\"" : rule.one_of[i];
  }
  return all;
}
std::string describe(const FlagRule&) {
  return "true or false";
}
std::string describe(const SeedRule&) {
  return "an integer from 0 to 2^64 - 1";
}

std::string describe(const NumbersRule& rule) {
  return str("a list of ", rule.count, ", each ", describe(rule.each));
}
std::string describe(const TextsRule& rule) {
  return str("a list of ", rule.meaning_of_item);
}
std::string describe(const TermsRule& rule) {
  return rule.allowed;
}

bool allows(const IntegerRule& rule, int64_t value) {
  return value >= rule.low && value <= rule.high;
}
bool allows(const NumberRule& rule, double value) {
  return (rule.above ? value > rule.low : value >= rule.low) && value <= rule.high;
}
bool allows(const TextRule& rule, const std::string& value) {
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::any_of(value.begin(), value.end(), control)) return false;
  if (rule.filled && value.empty()) return false;
  if (rule.width && !value.empty() && !read_width(value)) return false;
  if (rule.letters != nullptr && value.find_first_not_of(rule.letters) != std::string::npos)
    return false;
  if (rule.file_name && (value.empty() || value[0] == '.' || value.find('/') != std::string::npos))
    return false;
  return rule.one_of.empty() ||
         std::find(rule.one_of.begin(), rule.one_of.end(), value) != rule.one_of.end();
}

int64_t edit_distance(const std::string& a, const std::string& b) {
  const size_t width = b.size() + 1;
  std::vector<int64_t> d((a.size() + 1) * width);
  for (size_t i = 0; i <= a.size(); ++i)
    for (size_t j = 0; j <= b.size(); ++j) {
      int64_t& here = d[i * width + j];
      if (i == 0 || j == 0) {
        here = static_cast<int64_t>(i + j);
        continue;
      }
      here = std::min({d[(i - 1) * width + j] + 1, d[i * width + j - 1] + 1,
                       d[(i - 1) * width + j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        here = std::min(here, d[(i - 2) * width + j - 2] + 1);
    }
  return d.back();
}

}  // namespace nestling
