// size_draw.h - which sizes a micro-batch trains, and with what weight.
//
// All           where as many are wanted as there are: every size that has a weight, with that weight in the loss.
// Some          `wanted` of them, drawn one after the other without replacement in proportion to their weights, each
//               with weight 1 / wanted; fewer where fewer have a weight, as in a dry run of one size.
// Determinism   from seed, step and micro-step alone: every rank draws the same, and a resumed run what it would have
//               drawn. The stream is not that of the router's noise.
#pragma once
#include <cstdint>
#include <vector>

namespace nestling {

struct DrawnSize {
  int64_t size;
  double weight;  // in the loss
};

// `sampling`: a weight a size, summing to 1. micro_step < 2^20.
std::vector<DrawnSize> draw_sizes(const std::vector<double>& sampling, int64_t wanted,
                                  uint64_t seed, int64_t step, int64_t micro_step);

}  // namespace nestling
