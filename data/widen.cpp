#include "data/widen.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/f8e4m3.h"

namespace nestling {
namespace {

float half_value(uint32_t bits) {
  const uint32_t fraction = bits & 0x3ffu;
  const auto e = static_cast<int>(bits >> 10 & 0x1fu);
  const float sign = bits >> 15 & 1 ? -1.0f : 1.0f;
  if (e == 31 && fraction != 0) return std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
  if (e == 31) return sign * std::numeric_limits<float>::infinity();
  const uint32_t significand = e == 0 ? fraction : fraction | 0x400u;
  return sign * std::ldexp(static_cast<float>(significand), std::max(e, 1) - 25);
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
    for (uint32_t b = 0; b < 1u << 16; ++b) values[b] = half_value(b);
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
      return each<f8e4m3>(bytes, out, [](f8e4m3 x) { return static_cast<float>(x); });
    default:
      throw Error(str(stored_name(type), " does not widen to f32"));
  }
}

}  // namespace nestling
