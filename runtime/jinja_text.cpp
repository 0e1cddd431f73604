#include "runtime/jinja_text.h"

#include <algorithm>
#include <cctype>

#include "data/utf8.h"
#include "runtime/jinja_value.h"

namespace nestling::jinja {

namespace {

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

template <class Taken>
std::string strip_if(std::string_view text, bool left, bool right, Taken taken) {
  const std::vector<std::string_view> all = characters(text);
  auto begin = all.begin(), end = all.end();
  if (left) begin = std::find_if_not(begin, end, taken);
  if (right)
    while (begin != end && taken(*(end - 1))) --end;
  std::string out;
  for (; begin != end; ++begin) out += *begin;
  return out;
}

}  // namespace

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> all;
  for (size_t at = 0; at < text.size(); at += all.back().size())
    all.push_back(text.substr(at, utf8_step(text, at).bytes));
  return all;
}

size_t space_at(std::string_view text, size_t at) {
  const Utf8Step step = utf8_step(text, at);
  return step.valid && is_space(utf8_decode(text.substr(at, step.bytes))) ? step.bytes : 0;
}

std::string strip(std::string_view text, bool left, bool right) {
  return strip_if(text, left, right, [](std::string_view c) { return space_at(c, 0) > 0; });
}

std::string strip(std::string_view text, std::string_view of, bool left, bool right) {
  const std::vector<std::string_view> all = characters(of);
  return strip_if(text, left, right, [&](std::string_view c) {
    return std::find(all.begin(), all.end(), c) != all.end();
  });
}

std::vector<std::string> words(std::string_view text, int64_t most) {
  std::vector<std::string> all;
  for (std::string rest = strip(text, true, false); !rest.empty();) {
    size_t end = 0;
    while (end < rest.size() && space_at(rest, end) == 0) end += utf8_step(rest, end).bytes;
    if (std::ssize(all) == most) {
      all.push_back(rest);
      break;
    }
    all.push_back(rest.substr(0, end));
    rest = strip(rest.substr(end), true, false);
  }
  return all;
}

std::vector<std::string> split(const std::string& text, const std::string& at, int64_t most) {
  if (at.empty()) refuse("split at an empty text");
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t found; std::ssize(parts) != most && (found = text.find(at, begin)) != text.npos;
       begin = found + at.size())
    parts.push_back(text.substr(begin, found - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

std::string replaced(const std::string& text, const std::string& from, const std::string& to,
                     int64_t most) {
  if (from.empty()) refuse("replace of an empty text");
  std::string out;
  for (const std::string& part : split(text, from, most)) out += part + to;
  return out.substr(0, out.size() - to.size());
}

std::string cased(std::string text, Case to) {
  constexpr std::string_view kNames[] = {"lower", "upper", "capitalize", "title"};
  bool first = true;  // of the text, or of a word
  for (char& c : text) {
    if ((c & 0x80) != 0)
      refuse(std::string(kNames[static_cast<size_t>(to)]) + " of text beyond ASCII");
    const auto u = static_cast<unsigned char>(c);
    const bool upper = to == Case::kUpper || (to != Case::kLower && first);
    c = static_cast<char>(upper ? std::toupper(u) : std::tolower(u));
    first = to == Case::kTitle && std::isalpha(u) == 0;
  }
  return text;
}

std::string html_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&#34;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return out;
}

}  // namespace nestling::jinja
