// code_values.h - what products on codes (FP8, NVFP4) read, as f32: exact. For kernels/cpu alone.
//
// Threads       spread over rows; serial inside a parallel_for.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cpu {

// Rows of weights [rows, K] as f32: f8_e4m3 codes; or codes of E2M1, two a byte, times the scales of their blocks.
void widen(View out, ConstView codes);
void widen(View out, ConstView codes, ConstView scales);

// The values of codes of E4M3 that x becomes by a tensor's scale: code(x / scale), both [T, K] f32.
void quantized(View out, ConstView x, float scale);

}  // namespace nestling::cpu
