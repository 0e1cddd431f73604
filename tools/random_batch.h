// random_batch.h - sequences of random tokens, one segment each; those of bench/peers/torch_elastic.py, for
// std::minstd_rand is the same everywhere.
#pragma once
#include <random>

#include "data/batches.h"

namespace nestling {

inline Batch random_batch(int64_t sequences, int64_t seq_len, int64_t vocab, int64_t step) {
  std::minstd_rand rng(static_cast<uint32_t>(step + 1));
  Batch b;
  b.sequences = sequences;
  b.seq_len = seq_len;
  const auto draw = [&] { return static_cast<int32_t>(rng() % static_cast<uint64_t>(vocab)); };
  for (int64_t s = 0; s <= sequences; ++s)
    b.cu_seqlens.push_back(static_cast<int32_t>(s * seq_len));
  for (int64_t s = 0; s < sequences; ++s) {
    b.tokens.push_back(draw());
    for (int64_t t = 1; t < seq_len; ++t) {
      b.tokens.push_back(draw());
      b.targets.push_back(b.tokens.back());
    }
    b.targets.push_back(draw());
  }
  b.counted_targets = sequences * seq_len;
  return b;
}

}  // namespace nestling
