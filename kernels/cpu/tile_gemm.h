// tile_gemm.h - C (+)= A B on small tiles that lie in cache: the product inside attention and scan.
//
// Shapes        A [m, k] any strides (a_row, a_col: A^T costs nothing), B [k, n] with contiguous
//               rows of pitch ldb, C [m, n] of pitch ldc. All f32, one thread.
// Speed         fastest where n is a multiple of 32; a tail of n that does not fill a vector is
// slow, so
//               callers pad their packed tiles to 16 columns.
// Target        always inlined: tile_gemm<simd::F16> inside a NESTLING_TARGET_AVX512 function,
//               tile_gemm<simd::F8> elsewhere.
// Order         each element of C is summed over k in order: the split into tiles of m and n does
// not
//               change a bit.
#pragma once
#include "kernels/core/simd.h"

namespace nestling::cpu {

// Rows of C kept in registers beside two vectors of columns.
template <class V>
inline constexpr int kTileRows = sizeof(V) == 64 ? 8 : 6;

struct TileGemm {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_col;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool accumulate = false;
};

namespace detail {

// C[kRows, kCols vectors] (+)= A B, all in registers.
template <class V, int kRows, int kCols>
NESTLING_INLINE void tile_kernel(int64_t k, const float* a, int64_t a_row, int64_t a_col,
                                 const float* b, int64_t ldb, float* c, int64_t ldc,
                                 bool accumulate) {
  V sum[kRows][kCols];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kCols; ++j)
      sum[i][j] = accumulate ? simd::load<V>(c + i * ldc + j * simd::kLanesOf<V>) : V{};
  for (int64_t p = 0; p < k; ++p) {
    V row[kCols];
#pragma GCC unroll 2
    for (int j = 0; j < kCols; ++j) row[j] = simd::load<V>(b + p * ldb + j * simd::kLanesOf<V>);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const float x = a[i * a_row + p * a_col];
#pragma GCC unroll 2
      for (int j = 0; j < kCols; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kCols; ++j) simd::store(c + i * ldc + j * simd::kLanesOf<V>, sum[i][j]);
}

// The last columns, fewer than a vector, of kRows rows.
template <class V, int kRows>
NESTLING_INLINE void tile_tail(int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
                               const float* b, int64_t ldb, float* c, int64_t ldc,
                               bool accumulate) {
  V sum[kRows];
  for (int i = 0; i < kRows; ++i) sum[i] = accumulate ? simd::load_n<V>(c + i * ldc, n) : V{};
  for (int64_t p = 0; p < k; ++p) {
    const V row = simd::load_n<V>(b + p * ldb, n);
    for (int i = 0; i < kRows; ++i) sum[i] += a[i * a_row + p * a_col] * row;
  }
  for (int i = 0; i < kRows; ++i) simd::store_n(c + i * ldc, sum[i], n);
}

template <class V, int kRows>
NESTLING_INLINE void tile_rows(const TileGemm& g, int64_t i) {
  const float* a = g.a + i * g.a_row;
  float* c = g.c + i * g.ldc;
  int64_t j = 0;
  for (; j + 2 * simd::kLanesOf<V> <= g.n; j += 2 * simd::kLanesOf<V>)
    tile_kernel<V, kRows, 2>(g.k, a, g.a_row, g.a_col, g.b + j, g.ldb, c + j, g.ldc, g.accumulate);
  for (; j + simd::kLanesOf<V> <= g.n; j += simd::kLanesOf<V>)
    tile_kernel<V, kRows, 1>(g.k, a, g.a_row, g.a_col, g.b + j, g.ldb, c + j, g.ldc, g.accumulate);
  if (j < g.n)
    tile_tail<V, kRows>(g.n - j, g.k, a, g.a_row, g.a_col, g.b + j, g.ldb, c + j, g.ldc,
                        g.accumulate);
}

}  // namespace detail

template <class V>
NESTLING_INLINE void tile_gemm(const TileGemm& g) {
  constexpr int kRows = kTileRows<V>;
  int64_t i = 0;
  for (; i + kRows <= g.m; i += kRows) detail::tile_rows<V, kRows>(g, i);
  for (; i < g.m; ++i) detail::tile_rows<V, 1>(g, i);
}

}  // namespace nestling::cpu
