#include "data/mixture.h"

#include <cmath>

#include "data/permutation.h"
#include "kernels/core/check.h"
#include "kernels/core/rng.h"

namespace nestling {

namespace {

constexpr int kFraction = 62;
constexpr uint64_t kPhaseStream = ~uint64_t{0};  // the shuffles use the streams from 0 on

}  // namespace

Mixture::Mixture(std::span<const double> weights, uint64_t seed)
    : peels_(weights.size()), seed_(seed) {
  NESTLING_CHECK_INPUT(!weights.empty(), "a mixture of no sources");
  Rng rng(seed, kPhaseStream);
  double left = 0;
  for (size_t k = weights.size(); k-- > 0;) {
    NESTLING_CHECK_INPUT(std::isfinite(weights[k]) && weights[k] > 0, "weight ", k, " is ",
                         weights[k], ", needs to be finite and above 0");
    left += weights[k];
    // The last source takes all that is left: share 1.
    peels_[k].share = static_cast<uint64_t>(std::ldexp(weights[k] / left, kFraction));
    peels_[k].phase = rng.bits64() >> (64 - kFraction);
  }
}

Mixture::Place Mixture::at(int64_t i) const {
  NESTLING_CHECK(i >= 0, "sequence ", i);
  const int64_t block = i / kBlock;
  const Permutation shuffle(kBlock, seed_, static_cast<uint64_t>(block));
  int64_t j = block * kBlock + static_cast<int64_t>(shuffle(static_cast<uint64_t>(i % kBlock)));
  for (size_t k = 0;; ++k) {
    const auto taken_before = [&](int64_t n) {
      const unsigned __int128 line =
          static_cast<unsigned __int128>(n) * peels_[k].share + peels_[k].phase;
      return static_cast<int64_t>(line >> kFraction);
    };
    const int64_t window = taken_before(j);
    if (taken_before(j + 1) > window) return {static_cast<int64_t>(k), window};
    j -= window;
  }
}

}  // namespace nestling
