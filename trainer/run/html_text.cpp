#include "trainer/run/html_text.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "data/utf8.h"

namespace nestling {

namespace {

constexpr const char* kDash = "\u2013";

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : replace_invalid_utf8(text)) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '\n':
      case '\t':
        out += c;
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
          out += "\ufffd";
        else
          out += c;
    }
  return out;
}

std::string shortened(std::string_view text, size_t most) {
  std::string whole = replace_invalid_utf8(text);
  size_t end_of_most = 0, characters = 0;
  for (size_t at = 0; at < whole.size(); at += utf8_step(whole, at).bytes) {
    if (++characters == most) end_of_most = at;
    if (characters > most) return whole.substr(0, end_of_most) + "\u2026";
  }
  return whole;
}

std::string fixed_number(double value, int decimals) {
  if (std::isnan(value)) return kDash;
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  // A large value that nobody would print in full keeps its magnitude instead.
  if (std::fabs(value) >= 1e9) std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

std::string short_number(double value) {
  if (std::isnan(value)) return kDash;
  if (value == 0) return "0";
  const double size = std::fabs(value);
  char text[64];
  constexpr struct {
    double unit;
    const char* name;
  } kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  if (size >= 1e4 && size < 1e15) {
    for (const auto& u : kUnits)
      if (size >= u.unit) {
        std::snprintf(text, sizeof(text), "%.4g%s", value / u.unit, u.name);
        return text;
      }
  }
  if (size >= 1e-3 && size < 1e15) {
    std::snprintf(text, sizeof(text), "%.4g", value);
    return text;
  }
  const int power = static_cast<int>(std::floor(std::log10(size)));
  std::snprintf(text, sizeof(text), "%.3ge%d", value / std::pow(10.0, power), power);
  return std::isfinite(value) ? text : value > 0 ? "inf" : "-inf";
}

std::string whole_number(int64_t value) {
  const std::string digits = std::to_string(value);
  const size_t first = digits[0] == '-' ? 1 : 0;
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) out += "\u2009";
    out += digits[i];
  }
  return out;
}

std::string utc_time(double seconds_since_1970) {
  if (!std::isfinite(seconds_since_1970) || std::fabs(seconds_since_1970) > 1e11) return kDash;
  const auto whole = static_cast<std::time_t>(seconds_since_1970);
  std::tm parts{};
  char text[64];
  if (::gmtime_r(&whole, &parts) == nullptr) return kDash;
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || std::fabs(seconds) > 1e11) return kDash;
  const auto s = static_cast<long long>(std::llround(seconds));
  char text[64];
  if (s >= 3600)
    std::snprintf(text, sizeof(text), "%lld h %02lld min", s / 3600, s / 60 % 60);
  else if (s >= 60)
    std::snprintf(text, sizeof(text), "%lld min %02lld s", s / 60, s % 60);
  else
    std::snprintf(text, sizeof(text), "%lld s", s);
  return text;
}

}  // namespace nestling
