// gguf_tokenizer.h - a tokenizer.json, and what stands beside it, as llama.cpp reads a vocabulary
// from a GGUF file.
//
// Model         gpt2: byte-level BPE. llama.cpp holds its regular expressions itself:
//               tokenizer.ggml.pre names the one that this tokenizer.json spells out, with its
//               `ignore_merges` (runtime/gguf_pretokenizer.h); none of those known there: refused,
//               with the expressions in the message.
// Tokens        as tokenizer.json writes them, in the order of their ids; ids up to the vocabulary
//               that have none are [PADn], of the type "unused". Special added tokens are control
//               tokens, the others user-defined.
// Special       BOS, EOS, PAD and UNK of tokenizer_config.json or config.json. Of config.json's
//               ends the first three: llama.cpp knows an end of text, of a turn and of a message.
//               add_bos and add_eos as the file's template does.
// Notes         what llama.cpp does otherwise than this tokenizer.json says, a line each.
// Errors        kInput naming the file and what llama.cpp cannot do.
// Source        llama.cpp: src/llama-vocab.cpp.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "data/gguf_writer.h"
#include "model/config.h"

namespace nestling {

struct GgufTokenizer {
  std::vector<GgufKey> keys;
  std::vector<std::string> notes;
};
// `files`: name to bytes, as LoadedModel::tokenizer_files(); `where` stands in messages for the
// model.
GgufTokenizer gguf_tokenizer(const std::map<std::string, std::string>& files,
                             const ModelConfig& config, const std::string& where);
// Of a model of token ids alone.
GgufTokenizer gguf_no_tokenizer();

}  // namespace nestling
