// packing.h - one source of training text: shuffled documents end to end, cut in windows.
//
// Order         epoch after epoch, all documents of all shards of the source, each epoch in its own
//               order: a permutation computed from (seed, epoch), see permutation.h.
// Windows       window w holds tokens [w S, w S + S] of that endless text: S inputs and one more
//               for the last target. A document that does not end in a window goes on in the next.
//               Every token of an epoch is an input exactly once.
// Memory        8 bytes a document for its place in the shard, and 1/8 byte a document for the
//               running length of the two epochs last used (found anew in one pass an epoch).
// Threads       one thread at a time.
// Errors        Error of kind kInput for files (shards.h); shards without a token are refused.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "data/permutation.h"
#include "data/shards.h"

namespace nestling {

class PackedSource {
 public:
  // prefixes: of the shards (shards.h), in an order that is part of the result.
  PackedSource(std::span<const std::filesystem::path> prefixes, int64_t vocabulary, int64_t seq_len,
               uint64_t seed);

  int64_t seq_len() const { return seq_len_; }
  int64_t documents() const { return first_document_.back(); }
  int64_t tokens() const { return tokens_; }  // of one epoch

  // Fills tokens [S + 1] and `starts`: every p in [0, S] at which a document begins, ascending.
  void window(int64_t w, std::span<int32_t> tokens, std::vector<int32_t>& starts);

 private:
  static constexpr int64_t kStride = 64;  // documents between two known running lengths
  struct Epoch {
    int64_t number;
    Permutation order;
    std::vector<int64_t> running;  // tokens before document kStride * i of this order
  };
  struct Document {
    const ShardReader* shard;
    int64_t index;  // in the shard
    int64_t length;
  };
  const Epoch& epoch(int64_t number);
  Document document(const Epoch& epoch, int64_t place) const;

  std::vector<ShardReader> shards_;
  std::vector<int64_t> first_document_;  // [shards + 1]
  int64_t tokens_ = 0;
  int64_t seq_len_;
  uint64_t seed_;
  std::array<std::optional<Epoch>, 2> epochs_;
};

}  // namespace nestling
