// gemv.h - y = x W^T for one to four rows of x: decoding, where reading W is all the cost.
//
// Shapes        y [M, N] f32, or bf16 where w is; x [M, K] f32; w [N, K] f32 or bf16 (widened
//               exactly); bias [N] f32; M at most kGemvRows.
// Threads       rows of w are spread over the team.
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
  bool accumulate = false;
};
void gemv(const Gemv& a);

}  // namespace nestling::cpu
