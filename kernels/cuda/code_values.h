// code_values.h - the values of codes (FP8, NVFP4) as bf16, exact: what products read where none take codes.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

// Rows of weights or activations, or stacks of them; `to` [.., rows, K] bf16 is of aligned_scratch. Codes [.., rows, K] are
// f8_e4m3 and block_scales absent; or [.., rows, K/2], two of E2M1 a byte, times block_scales [.., rows, K/16].
// `offsets` [E+1] of experts (experts.h): of those without rows nothing is written.
void widen(Context& ctx, View to, ConstView codes, ConstView block_scales, ConstView offsets = {});

}  // namespace nestling::cuda
