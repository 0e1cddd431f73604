// widened_product.h - products with weights that are codes, on cards and views for which cuBLASLt has none: both operands
// are made bf16, which the values of all codes are, blocks of rows of the weights one after another.
//
// Scratch       of the weights at most 32 MiB, or 64 of their rows: a block stays in the second-level cache.
// Traffic       a weight is read as a code, written and read again as bf16.
#pragma once
#include <algorithm>

#include "kernels/cuda/product.h"
#include "kernels/cuda/rounded.h"

namespace nestling::cuda {

struct WidenedProduct {
  View y;       // [T, N] overwritten unless accumulate
  ConstView x;  // [T, K] bf16
  float scale;
  bool accumulate;
};

// y (+)= scale x w^T; widen(rows, begin) writes rows of w from begin on to a view [rows, K] bf16.
template <class Widen>
void widened_product(Context& ctx, const WidenedProduct& p, const Widen& widen) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  constexpr int64_t kMultiple = 64;
  const Arena::Mark mark(ctx.scratch());
  const int64_t n = p.y.dim(1);
  const int64_t k = p.x.dim(1);
  const int64_t fit = kBytes / dtype_bytes(DType::kBF16) / k / kMultiple;
  const int64_t step = std::min(n, std::max(fit, int64_t{1}) * kMultiple);
  const View wide = aligned_scratch(ctx, DType::kBF16, step, k);
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin);
    const View w = wide.prefix(0, count);
    widen(w, begin);
    run(ctx, Product{.d = p.y.slice(1, begin, count),
                     .a = p.x,
                     .b = w,
                     .transpose_b = true,
                     .accumulate = p.accumulate,
                     .scale = p.scale});
  }
}

}  // namespace nestling::cuda
