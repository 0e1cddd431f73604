// normalizer.h - Unicode normal form C, as tokenizer files ask for it (utf8proc, Unicode 15).
#pragma once
#include <string>
#include <string_view>

namespace nestling {

// `text` must be valid UTF-8.
std::string normalize_nfc(std::string_view text);

}  // namespace nestling
