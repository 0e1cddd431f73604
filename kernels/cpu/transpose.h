// transpose.h - squares of floats transposed in registers.
#pragma once
#include "kernels/core/simd.h"

namespace nestling::cpu {

// a0 b0 a1 b1 ... of the lower halves, and of the upper.
template <class V>
NESTLING_INLINE V interleave_low(V a, V b) {
  if constexpr (simd::kLanesOf<V> == 8)
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  else
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
template <class V>
NESTLING_INLINE V interleave_high(V a, V b) {
  if constexpr (simd::kLanesOf<V> == 8)
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  else
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
}

// In place, by log2(lanes) rounds of interleaving the upper half of the rows with the lower.
template <class V>
NESTLING_INLINE void transpose_square(V* rows) {
  constexpr int kN = static_cast<int>(simd::kLanesOf<V>);
#pragma GCC unroll 4
  for (int round = 1; round < kN; round *= 2) {
    V next[kN];
#pragma GCC unroll 8
    for (int i = 0; i < kN / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kN / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kN / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kN; ++i) rows[i] = next[i];
  }
}

}  // namespace nestling::cpu
