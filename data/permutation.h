// permutation.h - a shuffle of [0, n) that is computed, not stored.
//
// A Feistel network over the smallest range of bits that holds n, walked along its cycle until it
// lands below n (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). At most two
// steps on average. The keys come from (seed, stream) alone: same order on every rank and run.
#pragma once
#include <array>
#include <cstdint>

namespace nestling {

class Permutation {
 public:
  // n >= 1.
  Permutation(uint64_t n, uint64_t seed, uint64_t stream);

  uint64_t size() const { return n_; }
  uint64_t operator()(uint64_t i) const;  // i < n; one-to-one onto [0, n)

 private:
  static constexpr int kRounds = 6;
  uint64_t encrypt(uint64_t x) const;
  uint64_t n_;
  int low_bits_;
  int high_bits_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace nestling
