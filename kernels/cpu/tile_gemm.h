// tile_gemm.h - C (+)= A B on small tiles that lie in cache: the product inside attention and scan.
//
// Shapes        A [m, k] any strides (a_row, a_col: A^T costs nothing), B [k, n] with contiguous
//               rows of pitch ldb, C [m, n] of pitch ldc. All f32, one thread.
// Speed         fastest where n is a multiple of 64 and A's larger stride small; a tail of n that
//               does not fill a vector is slow, so callers pad their packed tiles to 16 columns.
// Target        always inlined: tile_gemm<simd::F16> inside a NESTLING_TARGET_AVX512 function,
//               tile_gemm<simd::F8> elsewhere.
// Order         each element of C is summed over k in order: the split into tiles of m and n does
//               not change a bit.
#pragma once
#include "kernels/core/simd.h"

namespace nestling::cpu {

// The block of C kept in registers: rows, and vectors of columns. 6 x 4 of 32 registers leaves room
// for the row of B, and asks for 10 loads per 24 products; AVX2 has 16 registers.
inline constexpr int kTileRows = 6;
template <class V>
inline constexpr int kTileCols = sizeof(V) == 64 ? 4 : 2;

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
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j)
      sum[i][j] = accumulate ? simd::load<V>(c + i * ldc + j * simd::kLanesOf<V>) : V{};
  for (int64_t p = 0; p < k; ++p, a += a_col, b += ldb) {
    V row[kCols];
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) row[j] = simd::load<V>(b + j * simd::kLanesOf<V>);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kCols; ++j) sum[i][j] += a[i * a_row] * row[j];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
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

// kRows rows of C from column j on, in steps of kCols vectors; returns the columns done.
template <class V, int kRows, int kCols>
NESTLING_INLINE int64_t tile_cols(const TileGemm& g, const float* a, float* c, int64_t j) {
  constexpr int64_t kWidth = kCols * simd::kLanesOf<V>;
  for (; j + kWidth <= g.n; j += kWidth)
    tile_kernel<V, kRows, kCols>(g.k, a, g.a_row, g.a_col, g.b + j, g.ldb, c + j, g.ldc,
                                 g.accumulate);
  return j;
}

// As many whole steps of kRows rows as fit, from row i on; returns the rows done.
template <class V, int kRows>
NESTLING_INLINE int64_t tile_rows(const TileGemm& g, int64_t i) {
  for (; i + kRows <= g.m; i += kRows) {
    const float* a = g.a + i * g.a_row;
    float* c = g.c + i * g.ldc;
    int64_t j = tile_cols<V, kRows, kTileCols<V>>(g, a, c, 0);
    if constexpr (kTileCols < V >> 2) j = tile_cols<V, kRows, 2>(g, a, c, j);
    j = tile_cols<V, kRows, 1>(g, a, c, j);
    if (j < g.n)
      tile_tail<V, kRows>(g.n - j, g.k, a, g.a_row, g.a_col, g.b + j, g.ldb, c + j, g.ldc,
                          g.accumulate);
  }
  return i;
}

}  // namespace detail

template <class V>
NESTLING_INLINE void tile_gemm(const TileGemm& g) {
  int64_t i = detail::tile_rows<V, kTileRows>(g, 0);
  i = detail::tile_rows<V, 4>(g, i);
  i = detail::tile_rows<V, 2>(g, i);
  detail::tile_rows<V, 1>(g, i);
}

}  // namespace nestling::cpu
