// normalizer.h - Unicode normal form C, as tokenizer files ask for it (utf8proc, Unicode 15).
//
// The `tokenizers` package has older tables: combining marks that Unicode got since (U+1DF9, say)
// it leaves where they are, the standard orders them. No other difference was found.
#pragma once
#include <string>
#include <string_view>

namespace nestling {

// `text` must be valid UTF-8.
std::string normalize_nfc(std::string_view text);

}  // namespace nestling
