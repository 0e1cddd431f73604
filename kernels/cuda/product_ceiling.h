// product_ceiling.h - how fast cuBLASLt can multiply, whatever product.h makes of it. Built without CUDA, it
// throws (absent.cpp).
//
//   d [M, N] = a [M, K] b [N, K]^T        dense; all f32, or all bf16 with f32 sums
//
// Method        the library's proposals for the shape are run one by one; the best of them counts, each
//               by the median of its runs.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

enum class ProductMath : uint8_t { kAsOperands, kTf32 };  // kTf32: f32 operands rounded to TF32

// Seconds of one product.
double best_product_seconds(Context& ctx, View d, ConstView a, ConstView b, ProductMath math);

}  // namespace nestling::cuda
