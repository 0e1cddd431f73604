// f8e4m3.h - FP8 of four exponent and three fraction bits, the OCP's E4M3 ("e4m3fn"): bias 7, no
// infinities, S.1111.111 is NaN, the largest is 448 and the smallest 2^-9. The conversions of this type
// on the host are these; device code takes those of cuda_fp8.h, which give the same codes.
//
// Source        OCP 8-bit Floating Point Specification 1.0; Micikevicius et al. 2022 (arXiv 2209.05433).
#pragma once
#include <bit>
#include <cstdint>

#include "kernels/core/dtype.h"

namespace nestling {

// From float: to nearest even; what is larger than 448, infinities too, becomes 448 of its sign, NaN 0x7f.
// To float: exact.
struct f8e4m3 {
  static constexpr float kLargest = 448.0f;
  uint8_t bits = 0;

  f8e4m3() = default;
  explicit f8e4m3(float value) {
    const auto u = std::bit_cast<uint32_t>(value);
    const uint32_t size = u & 0x7fffffffu;
    uint32_t code = 0;
    if (size > 0x7f800000u) {
      bits = 0x7f;
      return;
    }
    if (size >= std::bit_cast<uint32_t>(kLargest))
      code = 0x7e;
    else if (size >= std::bit_cast<uint32_t>(0x1.0p-6f))  // 20 bits of fraction go, bias 127 to 7
      code = ((size + 0x7ffffu + (size >> 20 & 1u)) >> 20) - (120u << 3);
    else  // a whole number of 2^-9: the last bit of this sum is one
      code = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0x1.0p14f) & 0xfu;
    bits = static_cast<uint8_t>((u >> 24 & 0x80u) | code);
  }
  explicit operator float() const {
    const uint32_t sign = (bits & 0x80u) << 24;
    const uint32_t size = bits & 0x7fu;
    if (size == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
    const float normal = std::bit_cast<float>((size << 20) + (120u << 23));
    const float value = size < 8 ? static_cast<float>(size) * 0x1.0p-9f : normal;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
};

template <>
struct DTypeOf<f8e4m3> {
  static constexpr DType kValue = DType::kF8E4M3;
};

}  // namespace nestling
