// nvfp4.h - NVFP4: codes of E2M1, 16 along a row to a block, a block's scale in E4M3, and one f32 scale of the
// tensor. The value of a code is e2m1_value(code) * block scale * tensor scale: 4.5 bits each.
//
// E2M1          codes 0 .. 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign. Neither infinities nor NaN: a value
//               that is NaN is one whose block scale is.
// Packing       byte j of a row holds code 2j in its lower half, code 2j + 1 in its upper one.
// Source        NVIDIA ModelOpt, modelopt/torch/quantization/qtensor/nvfp4_tensor.py; E2M1: OCP Microscaling Formats
//               1.0.
#pragma once
#include "kernels/core/f8e4m3.h"

namespace nestling {

inline constexpr int64_t kNvfp4Block = 16;

// To the nearest, of two equally near the even code; what is larger than 6 becomes 6, NaN too.
inline int32_t e2m1_code(float x) {
  const float size = x < 0 ? -x : x;
  const int32_t code = !(size <= 0.25f) + !(size < 0.75f) + !(size <= 1.25f) + !(size < 1.75f) +
                       !(size <= 2.5f) + !(size < 3.5f) + !(size <= 5.0f);
  return code + (x < 0 ? 8 : 0);
}
inline float e2m1_value(uint8_t code) {
  constexpr float kSizes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float size = kSizes[code & 7];
  return (code & 8) != 0 ? -size : size;
}

// The scale of a block whose largest size is `largest`, NaN where a value is: largest / (6 tensor_scale), at most
// 448 and at least 2^-9, the smallest above zero, in E4M3; 1 where all is zero.
inline f8e4m3 nvfp4_block_scale(float largest, float tensor_scale) {
  const float scale = largest / (6.0f * tensor_scale);
  if (scale == 0) return f8e4m3(1.0f);
  return f8e4m3(scale < 0x1.0p-9f ? 0x1.0p-9f : scale);
}

}  // namespace nestling
