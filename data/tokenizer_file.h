// tokenizer_file.h - what a Hugging Face tokenizer.json says, checked and in our terms.
//
// Supported     model BPE (byte-level; ignore_merges, unk_token, fuse_unk), normalizer none or NFC,
//               pre-tokenizers of pretokenizer.h, post-processors ByteLevel and TemplateProcessing
//               (and a Sequence of them), decoder ByteLevel. `truncation` and `padding` are
//               settings of one caller of that library, not of the vocabulary: they are not
//               applied.
// Errors        anything else: Error of kind kInput naming file, path and what was found.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/json.h"
#include "data/pretokenizer.h"

namespace nestling {

struct TokenizerSpec {
  std::unordered_map<std::string, int32_t> vocab;  // as written: in the byte-level alphabet
  std::vector<BpeMerge> merges;
  bool ignore_merges = false;  // a piece that is a token is taken whole
  int32_t unknown = -1;
  bool fuse_unknown = false;
  std::vector<AddedToken> added;
  bool nfc = false;
  Pretokenizer pretokenizer;
  std::vector<int32_t> before;  // what add_special_tokens puts around a text
  std::vector<int32_t> after;
};

TokenizerSpec parse_tokenizer(JsonRef root);

}  // namespace nestling
