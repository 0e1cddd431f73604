#include "data/widen.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"

namespace nestling {
namespace {

// Any small float with `mantissa` fraction bits and `exponent` exponent bits, bias
// 2^(exponent-1)-1.
float decode(uint32_t bits, int exponent, int mantissa, bool has_infinity) {
  const uint32_t fraction = bits & ((1u << mantissa) - 1);
  const int e = static_cast<int>(bits >> mantissa & ((1u << exponent) - 1));
  const int bias = (1 << (exponent - 1)) - 1;
  const int top = (1 << exponent) - 1;
  const float sign = bits >> (exponent + mantissa) & 1 ? -1.0f : 1.0f;
  const bool all_ones = fraction == (1u << mantissa) - 1;
  if (e == top && (has_infinity ? fraction != 0 : all_ones))
    return std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
  if (e == top && has_infinity) return sign * std::numeric_limits<float>::infinity();
  const uint32_t significand = e == 0 ? fraction : fraction | 1u << mantissa;
  return sign * std::ldexp(static_cast<float>(significand), std::max(e, 1) - bias - mantissa);
}

template <class T, class Fn>
void each(std::span<const std::byte> bytes, float* out, Fn fn) {
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    T bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(T), sizeof bits);
    out[i] = fn(bits);
  }
}

// 16-bit values are looked up: ldexp a value would cost more than the read.
const float* half_table() {
  static const auto* table = [] {
    static float values[1 << 16];
    for (uint32_t b = 0; b < 1u << 16; ++b) values[b] = decode(b, 5, 10, true);
    return values;
  }();
  return table;
}

const float* f8_table() {
  static const auto* table = [] {
    static float values[1 << 8];
    for (uint32_t b = 0; b < 1u << 8; ++b) values[b] = decode(b, 4, 3, false);
    return values;
  }();
  return table;
}

}  // namespace

bool widens_to_float(StoredType type) {
  return type == StoredType::kBF16 || type == StoredType::kF16 || type == StoredType::kF8E4M3;
}

void widen_to_float(StoredType type, std::span<const std::byte> bytes, float* out) {
  switch (type) {
    case StoredType::kBF16:
      return each<uint16_t>(bytes, out,
                            [](uint16_t b) { return std::bit_cast<float>(uint32_t{b} << 16); });
    case StoredType::kF16:
      return each<uint16_t>(bytes, out, [table = half_table()](uint16_t b) { return table[b]; });
    case StoredType::kF8E4M3:
      return each<uint8_t>(bytes, out, [table = f8_table()](uint8_t b) { return table[b]; });
    default:
      throw Error(str(stored_name(type), " does not widen to f32"));
  }
}

}  // namespace nestling
