// bpe_trainer.h - learns a byte-level BPE vocabulary from text (Sennrich et al. 2016).
//
// Rule          the pair that occurs most often (ties: the one with the smaller ids) is merged
//               until the vocabulary has its size. Ids: special tokens, the 256 bytes in the order
//               of their byte-level characters, then merges. The same rule and order as the
//               `tokenizers` package.
// Determinism   a function of the texts alone, not of their order.
// Cost          counts are kept up to date per merge; 20 MB of English to 4,096 tokens takes
//               seconds.
// Errors        kInput: text that is not UTF-8, a vocabulary smaller than its fixed part, or one
//               that the text does not support at min_frequency.
// Threads       one thread at a time.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nestling {

// Llama 3's, with digits one by one: a small model then sees the digits it computes with.
inline constexpr const char* kTrainerRegex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct BpeTrainerOptions {
  int64_t vocab_size = 4096;  // tokens in all
  std::vector<std::string> special_tokens =
      {};                             // ids 0, 1, ...; cut out of the texts before counting
  std::string regex = kTrainerRegex;  // pieces within which pairs may merge
  int64_t min_frequency = 2;          // of a pair
};

class BpeTrainer {
 public:
  explicit BpeTrainer(BpeTrainerOptions options);
  ~BpeTrainer();

  void add_text(std::string_view text);              // one document
  void add_file(const std::filesystem::path& file);  // one document
  std::string train();                               // the text of a tokenizer.json

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nestling
