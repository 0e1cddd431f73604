// gguf_pretokenizer.h - the regular expressions of tokenizers, which llama.cpp holds in its own code
// under names: the one table of them, read both ways.
//
// Names         the first of an entry is written; the others, under which llama.cpp does the same,
//               are read too.
// Source        llama.cpp: src/llama-vocab.cpp.
#pragma once
#include <string>
#include <vector>

#include "data/json.h"

namespace nestling {

// The name of the one that a tokenizer.json spells out, with its `ignore_merges`. Throws kInput with
// its expressions where none is known.
std::string gguf_pre_name(JsonRef tokenizer, bool ignore_merges);

struct GgufPretokenizer {
  std::vector<std::string> stages;  // regular expressions, outermost first, or "ByteLevel"
  bool ignore_merges = false;
  bool adds_bos = false;  // where a file does not say

  Json json() const;  // pre_tokenizer of a tokenizer.json
};
// By its name. Throws kInput naming `where` and those that are known.
GgufPretokenizer gguf_pretokenizer(const std::string& name, const std::string& where);

}  // namespace nestling
