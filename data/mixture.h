// mixture.h - which source the i-th training sequence comes from, and which of its windows it is.
//
// Pure          at(i) depends on (weights, seed, i) alone: one integer says where a run is, and any
//               number of ranks sees the same order.
// Weights       relative, finite, above 0. Of the first n sequences, n a multiple of kBlock, source
//               k gives w_k n / sum(w) to within the number of sources: shares are met in the long
//               run to 2^-52, not by chance. Inside a block the order is shuffled.
// Windows       each window of each source comes exactly once, in order but for that shuffle.
// Derivation    sources are peeled off one by one; of the indices j that are left, source k takes
//               those where floor(j p + u) steps up (Bresenham's line), with p its share of what is
//               left and u a phase from the seed; floor(j p + u) is then its window. Integers only.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace nestling {

class Mixture {
 public:
  static constexpr int64_t kBlock = 256;

  struct Place {
    int64_t source;
    int64_t window;
  };

  Mixture(std::span<const double> weights, uint64_t seed);
  int64_t sources() const { return static_cast<int64_t>(peels_.size()); }
  Place at(int64_t i) const;

 private:
  struct Peel {
    uint64_t share;  // of what is left, in 2^-62
    uint64_t phase;  // in 2^-62
  };
  std::vector<Peel> peels_;
  uint64_t seed_;
};

}  // namespace nestling
