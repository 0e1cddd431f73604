// training_batch.h - random sequences as a training batch, the same whoever asks for which part.
#pragma once
#include "data/batches.h"
#include "kernels/core/rng.h"

namespace nestling::testing {

inline constexpr int64_t kSequences = 4, kLength = 24, kVocab = 60;

// Sequences [first, first + count) of a fixed batch, each cut in two documents.
inline Batch sequences(int64_t step, int64_t first, int64_t count) {
  Batch b;
  b.sequences = count;
  b.seq_len = kLength;
  b.cu_seqlens = {0};
  for (int64_t s = first; s < first + count; ++s) {
    Rng rng(77, static_cast<uint64_t>(step * kSequences + s));
    const auto edge = static_cast<int64_t>(3 + rng.below(kLength - 6));
    for (int64_t t = 0; t < kLength; ++t) {
      b.tokens.push_back(static_cast<int32_t>(rng.below(kVocab)));
      const bool last_of_document = t == edge - 1;
      b.targets.push_back(last_of_document ? -1 : static_cast<int32_t>(rng.below(kVocab)));
      b.counted_targets += !last_of_document;
    }
    const auto base = static_cast<int32_t>((s - first) * kLength);
    b.cu_seqlens.push_back(base + static_cast<int32_t>(edge));
    b.cu_seqlens.push_back(base + static_cast<int32_t>(kLength));
  }
  return b;
}

}  // namespace nestling::testing
