// token_documents.h - documents as tokens, one after the other, for who reads them once: of token shards, or of a
// text that is tokenised on the way.
//
// A spec is a shard prefix or a folder of shards (shards.h), or a text (text_source.h). A document of a text has
// what the tokenizer's template puts around it and is closed with `end_of_text`; those of shards are as they are stored, and those without tokens passed over.
// Errors        Error of kind kInput naming the file, at opening or where it is read.
// Ownership     borrows the tokenizer.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace nestling {

struct DocumentOptions {
  const Tokenizer& tokenizer;
  int64_t vocabulary;   // of shards: tokens must be in [0, vocabulary)
  int32_t end_of_text;  // closes a document of a text
  uint64_t seed = 0;    // of generated text
};

struct TokenDocument {
  std::vector<int32_t> tokens;  // all, or the first ones
  int64_t length = 0;           // of the whole document
};

class TokenDocuments {
 public:
  virtual ~TokenDocuments() = default;
  // The next document with at most `limit` of its tokens; false at the end.
  virtual bool next(int64_t limit, TokenDocument& document) = 0;
};

std::unique_ptr<TokenDocuments> open_documents(const std::string& spec,
                                               const DocumentOptions& options);

}  // namespace nestling
