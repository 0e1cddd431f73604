// sweep.h - element-wise operators over the rows of a matrix, one vector of columns at a time.
//
// An Op holds pointers and pitches and has
//   template <class V, bool full> NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const;
// which handles row t, columns [d, d + n): n is V's lanes where `full`, less at the end of a row.
// Every element goes through the same vector instructions wherever a row ends: its bits do not
// depend on its neighbours.
#pragma once
#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

template <class V, bool full>
NESTLING_INLINE V load_some(const float* p, int64_t n) {
  if constexpr (full) return simd::load<V>(p);
  return simd::load_n<V>(p, n);
}
template <class V, bool full>
NESTLING_INLINE void store_some(float* p, V v, int64_t n) {
  if constexpr (full) {
    simd::store(p, v);
  } else {
    simd::store_n(p, v, n);
  }
}

template <class V, class Op>
NESTLING_INLINE void sweep_body(const Op& op, int64_t begin, int64_t end, int64_t width) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; ++t) {
    int64_t d = 0;
    for (; d + kN <= width; d += kN) op.template step<V, true>(t, d, kN);
    if (d < width) op.template step<V, false>(t, d, width - d);
  }
}
template <class Op>
void sweep_avx2(const Op& op, int64_t begin, int64_t end, int64_t width) {
  sweep_body<simd::F8>(op, begin, end, width);
}
template <class Op>
NESTLING_TARGET_AVX512 void sweep_avx512(const Op& op, int64_t begin, int64_t end, int64_t width) {
  sweep_body<simd::F16>(op, begin, end, width);
}

// Rows a thread takes at a time: 16384 elements, so that small matrices stay on one thread.
inline int64_t rows_per_task(int64_t width) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1));
}

template <class Op>
void sweep(const Op& op, int64_t rows, int64_t width) {
  auto* range = cpu_isa() >= CpuIsa::kAvx512 ? sweep_avx512<Op> : sweep_avx2<Op>;
  parallel_for(rows, rows_per_task(width),
               [&](int64_t begin, int64_t end) { range(op, begin, end, width); });
}

}  // namespace nestling::cpu
