// widened_product.h - products with weights that are codes, on the CPU: blocks of their rows are made f32, and
// multiplied as such. For kernels/cpu alone.
#pragma once
#include <algorithm>
#include <functional>

#include "kernels/core/context.h"
#include "kernels/core/parallel.h"

namespace nestling::cpu {

// Calls row(t) for all rows of v, on all threads.
template <class Row>
void each_row(ConstView v, Row&& row) {
  constexpr int64_t kElementsPerTask = 16384;
  const int64_t grain = std::max(int64_t{1}, kElementsPerTask / v.dim(v.rank() - 1));
  parallel_for(v.rows(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(t);
  });
}

struct WidenedProduct {
  View y;       // [T, N] f32, overwritten unless accumulate
  ConstView x;  // [T, K] f32
  float scale;
  bool accumulate;
  // Writes rows [begin, begin + dim(0)) of the weights to a view [rows, K] f32.
  std::function<void(View rows, int64_t begin)> widen;
};

// y (+)= scale x w^T; every sum is multiplied by the scale once.
void widened_product(Context& ctx, const WidenedProduct& p);

}  // namespace nestling::cpu
