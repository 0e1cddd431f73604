// sweep.h - element-wise operators over the rows of a matrix, sixteen columns at a time.
//
// An Op holds pointers and pitches and has
//   template <bool full> NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const;
// which handles row t, columns [d, d + n): n is 16 where `full`. Every element goes through the
// same vector instructions, wherever a row ends: its bits do not depend on its neighbours.
#pragma once
#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

template <bool full>
NESTLING_INLINE simd::Vf load_some(const float* p, int64_t n) {
  if constexpr (full) return simd::load(p);
  return simd::load_n(p, n);
}
template <bool full>
NESTLING_INLINE void store_some(float* p, simd::Vf v, int64_t n) {
  if constexpr (full) {
    simd::store(p, v);
  } else {
    simd::store_n(p, v, n);
  }
}

template <class Op>
NESTLING_INLINE void sweep_body(const Op& op, int64_t begin, int64_t end, int64_t width) {
  for (int64_t t = begin; t < end; ++t) {
    int64_t d = 0;
    for (; d + simd::kLanes <= width; d += simd::kLanes) op.template step<true>(t, d, simd::kLanes);
    if (d < width) op.template step<false>(t, d, width - d);
  }
}
template <class Op>
void sweep_avx2(const Op& op, int64_t begin, int64_t end, int64_t width) {
  sweep_body(op, begin, end, width);
}
template <class Op>
NESTLING_TARGET_AVX512 void sweep_avx512(const Op& op, int64_t begin, int64_t end, int64_t width) {
  sweep_body(op, begin, end, width);
}

// Rows a thread takes at a time: 16 KiB elements, so that small matrices stay on one thread.
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
