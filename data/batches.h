// batches.h - training batches: the mixture of packed sources, dealt to ranks.
//
// Order         sequence i of the run is a pure function of (sources, weights, seed, i). A run's
//               data position is one integer, the number of sequences used so far, over all ranks.
// Ranks         of `count` sequences from `position` on, rank r of N gets the r-th run of count /
//               N: the batches of all ranks end to end are the batch of one rank. N divides count.
// Memory        a Batch owns its arrays; what load() returns is complete.
// Threads       one thread at a time.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/mixture.h"
#include "data/packing.h"

namespace nestling {

inline constexpr int32_t kIgnoredTarget = -1;

// B sequences of S tokens, end to end.
struct Batch {
  int64_t sequences = 0;
  int64_t seq_len = 0;
  std::vector<int32_t> tokens;   // [B S]
  std::vector<int32_t> targets;  // [B S] the next token; kIgnoredTarget where it begins a document
  std::vector<int32_t> cu_seqlens;  // [pieces + 1] where documents and sequences begin; 0 .. B S
  std::vector<int64_t> sources;     // [B] which source each sequence is from
  int64_t counted_targets = 0;      // targets that are not ignored
};

struct SourceSpec {
  std::vector<std::filesystem::path> shards;  // prefixes
  double weight = 1;
};

class Batches {
 public:
  Batches(const std::vector<SourceSpec>& sources, int64_t vocabulary, int64_t seq_len,
          uint64_t seed);

  int64_t seq_len() const { return sources_.front().seq_len(); }
  const PackedSource& source(int64_t k) const { return sources_[static_cast<size_t>(k)]; }
  Batch load(int64_t position, int64_t count, int64_t rank = 0, int64_t ranks = 1);

 private:
  void append(int64_t i, Batch& batch);
  Mixture mixture_;
  std::vector<PackedSource> sources_;
  std::vector<int32_t> window_;  // [S + 1]
  std::vector<int32_t> starts_;
};

}  // namespace nestling
