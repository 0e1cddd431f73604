// product.h - matrix products of the CUDA backend, by cuBLASLt. Row-major views with any row pitch.
//
//   d [M, N] (+)= scale op(a) [M, K] op(b) [K, N]        op transposes where asked
//
// Dtypes        a and b both f32 (products in f32, never TF32), both bf16, both f8_e4m3 or both u8: codes of E2M1,
//               two a byte, whose extents are in bytes; d f32 or, but from f32 operands, bf16. Sums are f32;
//               of FP8 see kernels/ops/fp8_linear.h.
// FP8           from compute capability 8.9 on, b alone transposed, all rows whole pieces of 16 bytes and N a multiple
//               of 16.
// FP4           from compute capability 10.0 on, b alone transposed, all rows whole pieces of 16 bytes, with scales of blocks of 16 codes as cuBLASLt lays them
//               out: kernels/cuda/nvfp4_linear.cu.
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
  float scale = 1.0f;
  ConstView a_scales{}, b_scales{};  // of FP4, f8_e4m3 in whole tiles
};

void run(Context& ctx, const Product& p);

}  // namespace nestling::cuda
