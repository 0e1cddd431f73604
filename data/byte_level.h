// byte_level.h - the alphabet in which byte-level tokenizers write bytes as printable characters.
//
// GPT-2's bytes_to_unicode: 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves, the other 68
// bytes for U+0100, U+0101, ... in order (a space is U+0120).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nestling {

char32_t byte_level_char(uint8_t byte);
std::string to_byte_level(std::string_view bytes);
// The bytes that `text` (valid UTF-8) stands for; none if a character is outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace nestling
