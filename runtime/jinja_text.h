// jinja_text.h - texts as Python's str sees them: of characters, not bytes; used by runtime/jinja*.cpp.
//
// Text          UTF-8; a byte that is in no character counts as one.
// Errors        Refused (runtime/jinja_value.h).
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
// str.split(at), str.replace(), of a text that is not empty.
std::vector<std::string> split(const std::string& text, const std::string& at, int64_t most);
std::string replaced(const std::string& text, const std::string& from, const std::string& to,
                     int64_t most);
// Of ASCII: letters beyond it have no case here and are refused.
enum class Case : uint8_t { kLower, kUpper, kCapital, kTitle };
std::string cased(std::string text, Case to);
// What markupsafe.escape() gives.
std::string html_escaped(const std::string& text);

}  // namespace nestling::jinja
