// row_max.h - the largest of a row of floats; NaN where any of them is NaN.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/simd.h"

namespace nestling::cpu {

template <class V>
NESTLING_INLINE float row_max_body(const float* x, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V top = simd::splat<V>(-std::numeric_limits<float>::infinity());
  V nan = V{};  // holds a NaN once there was one
  int64_t i = 0;
  for (; i + kN <= n; i += kN) {
    const V v = simd::load<V>(x + i);
    top = simd::max(v, top);
    nan = simd::select<V>(v != v, v, nan);
  }
  float best = simd::max_lane(top);
  float bad = simd::sum(nan);
  for (; i < n; ++i) {
    best = std::max(best, x[i]);
    if (std::isnan(x[i])) bad = x[i];
  }
  return std::isnan(bad) ? bad : best;
}
inline float row_max_avx2(const float* x, int64_t n) {
  return row_max_body<simd::F8>(x, n);
}
NESTLING_TARGET_AVX512 inline float row_max_avx512(const float* x, int64_t n) {
  return row_max_body<simd::F16>(x, n);
}

inline float row_max(const float* x, int64_t n) {
  return (cpu_isa() >= CpuIsa::kAvx512 ? row_max_avx512 : row_max_avx2)(x, n);
}

}  // namespace nestling::cpu
