// gguf_tokenizer_files.h - the vocabulary of a GGUF file as the files of a Hugging Face directory:
// what gguf_tokenizer.h writes, the other way. From there on a model's tokenizer is one thing.
//
// Gives         tokenizer.json; tokenizer_config.json with BOS, EOS, PAD and UNK; the chat template,
//               where the file has one. Nothing of a model of token ids (model "none", or no key).
// Tokens        control tokens are special added tokens, user-defined ones added tokens, unused ids
//               have none. BOS and EOS are put around a text as add_bos_token and add_eos_token say,
//               or without them as llama.cpp does for this pre-tokenizer.
// Not in GGUF   normal form C, and space that added tokens take along: text is taken as llama.cpp
//               takes it.
// Errors        kInput naming file and key: another model than gpt2 (byte-level BPE), a
//               pre-tokenizer that is not known here, tokens that are there twice, ids beyond them.
#pragma once
#include <map>
#include <string>

#include "data/gguf_reader.h"

namespace nestling {

// Name to bytes, of kTokenizerFiles.
std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file);

}  // namespace nestling
