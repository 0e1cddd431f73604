// gemv.h - y = x W^T for one to four rows of x: decoding, where reading W is all the cost. Codes become values in
// registers: nothing is widened in memory.
//
// Shapes        y [M, N] f32, or bf16 where w is; x [M, K] f32; w [N, K] f32, bf16 or f8_e4m3 (widened
//               exactly, NaN stays NaN); bias [N] f32; M at most kGemvRows.
// NVFP4         of gemv_nvfp4: both operands codes [., K/2] u8 and scales of blocks [., K/16] f8_e4m3 (kernels/core/nvfp4.h), y f32.
//               Products of codes are summed as integers, eight at a time, and those sums, exact, times the
//               scales of both blocks in f32.
// Scale         of tensors whose codes these are: multiplies each sum once, before the bias.
// Threads       rows of w are spread over the team; inside a parallel_for the calling thread does them all.
// Determinism   a value of y depends on its row of x and of w alone, not on M, N or the threads.
#pragma once
#include "kernels/core/view.h"

namespace nestling::cpu {

inline constexpr int64_t kGemvRows = 4;

struct Gemv {
  View y;            // [M, N] overwritten, unless accumulate (f32)
  ConstView x;       // [M, K]
  ConstView w;       // [N, K]
  ConstView bias{};  // [N]
  float scale = 1.0f;
  bool accumulate = false;
};
void gemv(const Gemv& a);

struct Nvfp4Gemv {
  View y;              // [M, N] overwritten, unless accumulate
  ConstView x;         // [M, K/2]
  ConstView x_scales;  // [M, K/16]
  ConstView w;         // [N, K/2]
  ConstView w_scales;  // [N, K/16]
  float scale = 1.0f;
  bool accumulate = false;
};
void gemv_nvfp4(const Nvfp4Gemv& a);

}  // namespace nestling::cpu
