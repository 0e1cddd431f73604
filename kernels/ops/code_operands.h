// code_operands.h - what operators on codes (FP8, NVFP4) ask of their operands alike.
#pragma once
#include <cmath>

#include "kernels/core/context.h"
#include "kernels/core/nvfp4.h"

namespace nestling {

// Activations beside codes: each f32 or, but on the CPU, bf16.
inline void check_beside_codes(const Context& ctx, const char* op, const char* name, ConstView v) {
  const bool low = v.dtype() == DType::kBF16 && ctx.device() != Device::kCpu;
  NESTLING_CHECK(low || v.dtype() == DType::kF32, op, ": ", name, " is ", v.describe(),
                 ", needs f32, or off the CPU bf16");
}

inline void check_fp8_scale(const char* op, const char* name, float scale) {
  NESTLING_CHECK_INPUT(std::isfinite(scale) && scale > 0, op, ": ", name, " is ", scale,
                       ", needs a finite number above zero");
}

// A code's size is between half of 2^-9 scales and 6 * 448 of them, and all between must be floats.
inline void check_nvfp4_scale(const char* op, const char* name, float scale) {
  NESTLING_CHECK_INPUT(
      std::isnormal(scale * 0x1.0p-9f) && std::isfinite(scale * 2688) && scale > 0, op, ": ", name,
      " is ", scale, ", needs to be above zero, its 512th part a normal f32, 2688 times it finite");
}

inline void check_nvfp4_columns(const char* op, int64_t cols) {
  NESTLING_CHECK(cols % kNvfp4Block == 0, op, ": ", cols, " columns are no whole blocks of 16");
}

}  // namespace nestling
