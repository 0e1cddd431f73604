// utf8.h - walking, checking and repairing UTF-8 (Unicode 15, table 3-7: no surrogates, no
// overlongs).
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace nestling {

struct Utf8Step {
  size_t
      bytes;  // of the character, or of the longest prefix of one that is here ("maximal subpart")
  bool valid;
  bool incomplete;  // not valid, but the text ended before that was certain
};

// The character at `at` < text.size().
Utf8Step utf8_step(std::string_view text, size_t at);
char32_t utf8_decode(std::string_view character);  // of a valid one
void utf8_append(std::string* out, char32_t c);

// Byte offset of the first fault, npos if there is none.
size_t find_invalid_utf8(std::string_view text);
// Every maximal subpart of an ill-formed sequence becomes one U+FFFD, as in WHATWG's and Rust's
// decoders.
std::string replace_invalid_utf8(std::string_view text);
// Bytes (0 to 3) at the end that may become a character when more text arrives.
size_t incomplete_utf8_tail(std::string_view text);

}  // namespace nestling
