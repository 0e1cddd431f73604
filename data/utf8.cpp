#include "data/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace nestling {
namespace {

struct Lead {
  size_t bytes;  // of the whole character; 0: no character starts so
  uint8_t low;   // range of the second byte
  uint8_t high;
};

Lead lead(uint8_t b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xC2) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b < 0xF0)
    return {3, static_cast<uint8_t>(b == 0xE0 ? 0xA0 : 0x80),
            static_cast<uint8_t>(b == 0xED ? 0x9F : 0xBF)};
  if (b < 0xF5)
    return {4, static_cast<uint8_t>(b == 0xF0 ? 0x90 : 0x80),
            static_cast<uint8_t>(b == 0xF4 ? 0x8F : 0xBF)};
  return {0, 0, 0};
}

// The first byte at or after `at` that is not ASCII.
size_t skip_ascii(std::string_view text, size_t at) {
  while (at + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, sizeof word);
    if (word & 0x8080808080808080u) break;
    at += 8;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
  const Lead l = lead(static_cast<uint8_t>(text[at]));
  if (l.bytes == 0) return {1, false, false};
  for (size_t k = 1; k < l.bytes; ++k) {
    if (at + k == text.size()) return {k, false, true};
    const auto b = static_cast<uint8_t>(text[at + k]);
    if (b < (k == 1 ? l.low : 0x80) || b > (k == 1 ? l.high : 0xBF)) return {k, false, false};
  }
  return {l.bytes, true, false};
}

char32_t utf8_decode(std::string_view character) {
  const auto first = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return first;
  char32_t c = first & (0x7Fu >> character.size());
  for (size_t k = 1; k < character.size(); ++k)
    c = c << 6 | (static_cast<uint8_t>(character[k]) & 0x3Fu);
  return c;
}

void utf8_append(std::string* out, char32_t c) {
  const auto put = [&](uint32_t b) { out->push_back(static_cast<char>(b)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid) return at;
    at += step.bytes;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t bad = find_invalid_utf8(text.substr(at));
    out += text.substr(at, bad);
    if (bad == std::string_view::npos) break;
    at += bad;
    out += "\xEF\xBF\xBD";
    at += utf8_step(text, at).bytes;
  }
  return out;
}

size_t incomplete_utf8_tail(std::string_view text) {
  const size_t longest = std::min<size_t>(3, text.size());
  for (size_t n = longest; n > 0; --n) {
    const Utf8Step step = utf8_step(text, text.size() - n);
    if (step.incomplete && step.bytes == n) return n;
  }
  return 0;
}

}  // namespace nestling
