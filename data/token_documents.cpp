#include "data/token_documents.h"

#include <algorithm>

#include "data/shards.h"
#include "data/text_source.h"

namespace nestling {

namespace {

class OfText : public TokenDocuments {
 public:
  OfText(const std::string& spec, const DocumentOptions& options)
      : options_(options), source_(open_text(spec, {.seed = options.seed})) {}

  bool next(int64_t limit, TokenDocument& document) override {
    if (!source_->next(text_)) return false;
    document.tokens = options_.tokenizer.document(text_, options_.end_of_text);
    document.length = std::ssize(document.tokens);
    document.tokens.resize(static_cast<size_t>(std::min(limit, document.length)));
    return true;
  }

 private:
  DocumentOptions options_;
  std::unique_ptr<TextSource> source_;
  std::string text_;
};

class OfShards : public TokenDocuments {
 public:
  OfShards(const std::vector<std::filesystem::path>& prefixes, int64_t vocabulary) {
    for (const auto& prefix : prefixes) shards_.emplace_back(prefix, vocabulary);
  }

  bool next(int64_t limit, TokenDocument& document) override {
    if (!find()) return false;
    document.length = shards_[shard_].length(at_);
    document.tokens.resize(static_cast<size_t>(std::min(limit, document.length)));
    shards_[shard_].read(at_++, 0, document.tokens);
    return true;
  }

 private:
  // Goes to the next document that has tokens; false where there is none.
  bool find() {
    for (; shard_ < shards_.size(); ++shard_, at_ = 0)
      for (; at_ < shards_[shard_].documents(); ++at_)
        if (shards_[shard_].length(at_) > 0) return true;
    return false;
  }

  std::vector<ShardReader> shards_;
  size_t shard_ = 0;
  int64_t at_ = 0;  // the next document of it
};

}  // namespace

std::unique_ptr<TokenDocuments> open_documents(const std::string& spec,
                                               const DocumentOptions& options) {
  const auto shards = shards_at(spec);
  if (shards.empty()) return std::make_unique<OfText>(spec, options);
  return std::make_unique<OfShards>(shards, options.vocabulary);
}

}  // namespace nestling
