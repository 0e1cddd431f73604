// html_text.h - text and numbers as they stand in an HTML page that also parses as XML.
//
// Text          from files is hostile until it is escaped: markup, quotes, control characters and bytes
//               that are no UTF-8 (they become U+FFFD) never reach the page as they are.
// Numbers       NaN stands for "not measured" and reads as a dash.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace nestling {

std::string escape_html(std::string_view text);  // for content and for quoted attributes
// At most `most` characters, the last an ellipsis where some were left out. Not escaped.
std::string shortened(std::string_view text, size_t most);

std::string fixed_number(double value, int decimals);  // "0.25"
std::string short_number(double value);                // "12.5k", "0.004", "3e-5": for ticks
std::string whole_number(int64_t value);               // "1 234 567", by thin spaces
std::string utc_time(double seconds_since_1970);       // "2026-11-23 15:20 UTC"
std::string duration_text(double seconds);             // "1 h 03 min", "2 min 05 s"

}  // namespace nestling
