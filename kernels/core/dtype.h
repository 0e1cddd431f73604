// dtype.h - element types, and the one conversion each needs.
//
// Files may hold any of these; kernels compute on kF32, kBF16 and kI32 and say so in their headers.
#pragma once
#include <bit>
#include <cstdint>

namespace nestling {

enum class DType : uint8_t { kF64, kF32, kBF16, kF16, kF8E4M3, kI64, kI32, kU8, kBool };

int64_t dtype_bytes(DType dtype);
const char* dtype_name(DType dtype);  // "f32", "bf16", ...

// bfloat16: the upper half of a float. Conversion rounds to nearest even and keeps NaN a NaN.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType kValue = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType kValue = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType kValue = DType::kBF16;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType kValue = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType kValue = DType::kI32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType kValue = DType::kU8;
};

}  // namespace nestling
