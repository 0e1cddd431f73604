// product.h - matrix products of the CUDA backend, by cuBLASLt. Row-major views with any row pitch.
//
//   d [M, N] (+)= op(a) [M, K] op(b) [K, N]        op transposes where asked
//
// Dtypes        a and b both f32 (products in f32, never TF32) or both bf16; d f32 or, from bf16
//               operands, bf16. Sums are f32.
// Alignment     whatever the views have; the choice of algorithm knows it. Multiples of 16 bytes
//               run at full speed; a shape for which cuBLASLt has no algorithm throws.
// Determinism   the algorithm is chosen once per shape, pitch and alignment and kept; sums that are
//               split are joined in a fixed order. Same inputs, same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

struct Product {
  View d;
  ConstView a;  // [M, K], or [K, M] to be transposed
  ConstView b;  // [K, N], or [N, K] to be transposed
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
};

void run(Context& ctx, const Product& p);

}  // namespace nestling::cuda
