#include "trainer/size_draw.h"

#include <numeric>

#include "kernels/core/rng.h"

namespace nestling {

namespace {

constexpr uint64_t kSizeStream = 0x73697a6573;  // "sizes"
constexpr int kMicroStepBits = 20;

// An index with a positive weight, in proportion to the weights, of which at least one is positive.
size_t draw_one(Rng& rng, const std::vector<double>& weights, double total) {
  double at_most = rng.uniform(0.0, total);
  size_t pick = weights.size();
  for (size_t s = 0; s < weights.size(); ++s) {
    if (weights[s] <= 0) continue;
    pick = s;
    if (at_most < weights[s]) break;
    at_most -= weights[s];
  }
  return pick;
}

}  // namespace

std::vector<DrawnSize> draw_sizes(const std::vector<double>& sampling, int64_t wanted,
                                  uint64_t seed, int64_t step, int64_t micro_step) {
  std::vector<DrawnSize> drawn;
  if (wanted == std::ssize(sampling)) {
    for (int64_t s = 0; s < wanted; ++s)
      if (sampling[static_cast<size_t>(s)] > 0)
        drawn.push_back({s, sampling[static_cast<size_t>(s)]});
    return drawn;
  }
  Rng rng(seed ^ kSizeStream,
          (static_cast<uint64_t>(step) << kMicroStepBits) + static_cast<uint64_t>(micro_step));
  std::vector<double> left = sampling;
  for (int64_t k = 0; k < wanted; ++k) {
    const double total = std::accumulate(left.begin(), left.end(), 0.0);
    if (total <= 0) break;
    const size_t pick = draw_one(rng, left, total);
    drawn.push_back({static_cast<int64_t>(pick), 1.0 / static_cast<double>(wanted)});
    left[pick] = 0;
  }
  return drawn;
}

}  // namespace nestling
