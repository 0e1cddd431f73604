// jinja_text.h - texts as Python's str sees them: of characters, not bytes; used by runtime/jinja*.cpp.
//
// Text          UTF-8; a byte that is in no character counts as one.
// White space   what str.isspace() and \s say: Unicode's, and U+001C to U+001F.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nestling::jinja {

std::vector<std::string_view> characters(std::string_view text);
// Bytes of the white space character at `at` < text.size(); 0: it is none.
size_t space_at(std::string_view text, size_t at);
// Without the white space at its ends; or without these characters at its ends.
std::string strip(std::string_view text, bool left, bool right);
std::string strip(std::string_view text, std::string_view of, bool left, bool right);
// str.split(): at runs of white space, `most` times; negative: everywhere.
std::vector<std::string> words(std::string_view text, int64_t most);

}  // namespace nestling::jinja
