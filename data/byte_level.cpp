#include "data/byte_level.h"

#include <array>

#include "data/utf8.h"

namespace nestling {
namespace {

constexpr char32_t kFirstMoved = 0x100;

constexpr bool stands_for_itself(int b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> of_byte{};
  std::array<int, kFirstMoved + 68> of_char{};  // -1: outside
};

constexpr Alphabet make_alphabet() {
  Alphabet a;
  for (int& b : a.of_char) b = -1;
  char32_t next = kFirstMoved;
  for (int b = 0; b < 256; ++b) {
    const char32_t c = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
    a.of_byte[static_cast<size_t>(b)] = c;
    a.of_char[c] = b;
  }
  return a;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_level_char(uint8_t byte) {
  return kAlphabet.of_byte[byte];
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  for (char b : bytes) utf8_append(&text, byte_level_char(static_cast<uint8_t>(b)));
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const size_t n = utf8_step(text, at).bytes;
    const char32_t c = utf8_decode(text.substr(at, n));
    if (c >= kAlphabet.of_char.size() || kAlphabet.of_char[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.of_char[c]));
    at += n;
  }
  return bytes;
}

}  // namespace nestling
