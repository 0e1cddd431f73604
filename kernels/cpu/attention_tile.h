// attention_tile.h - what forward, backward and one-token attention on the CPU share: a block of
// queries against tiles of keys.
//
// Lanes         queries lie in the vector lanes: a tile of scores is [keys, kBlock], so the softmax
//               reduces over rows and never across a vector, and K and V are read where they lie,
//               at any pitch. Unused lanes hold zero queries: harmless, and never written out.
// Base          q is scaled by scale * log2(e) and powers are of 2.
// Target        bodies are templates over the vector, as in simd.h.
#pragma once
#include <algorithm>

#include "kernels/cpu/tile_gemm.h"
#include "kernels/cpu/transpose.h"

namespace nestling::cpu::attention {

inline constexpr int64_t kBlock = 64;  // queries in a block
inline constexpr int64_t kTile = 64;   // keys in a tile
inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2 = 0.693147180559945309f;
inline constexpr float kLowest = -1e30f;  // below every score, and finite: no inf - inf

inline int64_t round_up(int64_t n) {  // to whole vectors of any instruction set
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

// The products are functions of their own, one an instruction set: inlined copies at every call
// would be a hundred kilobytes of code.
void product_avx2(const TileGemm& g);
NESTLING_TARGET_AVX512 void product_avx512(const TileGemm& g);
template <class V>
NESTLING_INLINE void product(const TileGemm& g) {
  if constexpr (sizeof(V) == 64)
    product_avx512(g);
  else
    product_avx2(g);
}

// A strided matrix: element (i, c) at data[i * pitch + c].
template <class T>
struct Rows {
  T* data;
  int64_t pitch;
  T* row(int64_t i) const { return data + i * pitch; }
};
template <class T>
Rows(T*, int64_t) -> Rows<T>;

// 2^x for x <= 127, relative error below 2 roundings: nearest integer, then a polynomial of degree
// 6 on [-1/2, 1/2] made by a Remez exchange (relative error 2e-9). x < -126 gives 0; NaN stays NaN.
template <class V>
NESTLING_INLINE V exp2(V x) {
  const V magic = simd::splat<V>(12582912.0f + 127.0f);  // its low bits become the exponent
  const V shifted = x + magic;
  const V r = x - (shifted - magic);
  V p = simd::splat<V>(0.0001534581242594868f);
  p = p * r + 0.0013399930903688073f;
  p = p * r + 0.009618489071726799f;
  p = p * r + 0.05550328642129898f;
  p = p * r + 0.24022646248340607f;
  p = p * r + 0.6931471824645996f;
  p = p * r + 1.0f;
  const V power = reinterpret_cast<V>(reinterpret_cast<simd::Int<V>>(shifted) << 23);
  return x < -126.0f ? V{} : p * power;
}

// Which keys a block of queries sees. Positions count from the start of the segment.
struct Mask {
  int64_t first;   // position of the block's first query
  int64_t count;   // queries
  int64_t window;  // 0: none
  int64_t key_begin() const { return window > 0 ? std::max<int64_t>(0, first - window + 1) : 0; }
  int64_t key_end() const { return first + count; }
};

// Overwrites the scores [keys, kBlock] of the keys key, key + 1, ... that a query must not see.
inline void hide(const Mask& mask, int64_t key, int64_t keys, float* scores) {
  const bool all_past = key + keys <= mask.first + 1;
  const bool all_near = mask.window == 0 || key + mask.window >= mask.first + mask.count;
  if (all_past && all_near) return;
  for (int64_t i = 0; i < keys; ++i) {
    float* row = scores + i * kBlock;
    std::fill_n(row, std::clamp<int64_t>(key + i - mask.first, 0, kBlock), 10 * kLowest);
    if (mask.window == 0) continue;
    const int64_t to = std::clamp<int64_t>(key + i + mask.window - mask.first, 0, kBlock);
    std::fill(row + to, row + kBlock, 10 * kLowest);
  }
}

// out [width, kBlock] = scale * x^T for `count` rows of x; lanes up to round_up(count) become zero.
template <class V>
NESTLING_INLINE void pack_lanes(Rows<const float> x, int64_t count, int64_t width, float scale,
                                float* out) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t i = 0; i < round_up(count); i += kN)
    for (int64_t c = 0; c < width; c += kN) {
      const int64_t n = std::min(kN, width - c);
      V square[kN];
      for (int64_t u = 0; u < kN; ++u) {
        if (i + u >= count)
          square[u] = V{};
        else
          square[u] = scale * (n == kN ? simd::load<V>(x.row(i + u) + c)
                                       : simd::load_n<V>(x.row(i + u) + c, n));
      }
      transpose_square(square);
      for (int64_t u = 0; u < n; ++u) simd::store(out + (c + u) * kBlock + i, square[u]);
    }
}

// x [count, width] = (lanes [width, kBlock] * scale [kBlock])^T.
template <class V>
NESTLING_INLINE void unpack_lanes(const float* lanes, int64_t count, int64_t width,
                                  const float* scale, Rows<float> x) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t i = 0; i < count; i += kN)
    for (int64_t c = 0; c < width; c += kN) {
      const int64_t n = std::min(kN, width - c);
      V square[kN] = {};
      for (int64_t u = 0; u < n; ++u)
        square[u] = simd::load<V>(lanes + (c + u) * kBlock + i) * simd::load<V>(scale + i);
      transpose_square(square);
      for (int64_t u = 0; u < std::min(kN, count - i); ++u) {
        if (n == kN)
          simd::store(x.row(i + u) + c, square[u]);
        else
          simd::store_n(x.row(i + u) + c, square[u], n);
      }
    }
}

// x where its rows lie close, else a copy in out [count, width]: a product with A^T runs over rows,
// and far apart every one of them is another page and falls into the same few cache sets.
template <class V>
NESTLING_INLINE Rows<const float> gather_rows(Rows<const float> x, int64_t count, int64_t width,
                                              float* out) {
  constexpr int64_t kNear = 256;  // floats; measured: below, the copy costs what it saves
  if (x.pitch <= kNear) return x;
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t i = 0; i < count; ++i) {
    int64_t c = 0;
    for (; c + kN <= width; c += kN) simd::store(out + i * width + c, simd::load<V>(x.row(i) + c));
    for (; c < width; ++c) out[i * width + c] = x.row(i)[c];
  }
  return {out, width};
}

// The running softmax of a block: after some keys, y^T = out / total, and every exponential is
// relative to `peak`.
struct Online {
  int64_t width, lanes;  // lanes: a multiple of simd::kLanes, at most kBlock
  float* q;              // [width, kBlock] scaled queries
  float* out;            // [width, kBlock]
  float* v;              // [kTile, width]
  float* scores;         // [kTile, kBlock]
  float* peak;           // [kBlock]
  float* total;          // [kBlock]

  static int64_t floats(int64_t width) { return (2 * width + kTile + 2) * kBlock + kTile * width; }
  Online(int64_t width_, int64_t count, float* memory)
      : width(width_),
        lanes(round_up(count)),
        q(memory),
        out(q + width_ * kBlock),
        v(out + width_ * kBlock),
        scores(v + kTile * width_),
        peak(scores + kTile * kBlock),
        total(peak + kBlock) {
    std::fill_n(peak, kBlock, kLowest);
    std::fill_n(total, kBlock, 0.0f);
    std::fill_n(out, width * kBlock, 0.0f);
  }
};

// Scores -> powers relative to the new peak; rescales what was summed before.
template <class V>
NESTLING_INLINE void absorb_scores(const Online& o, int64_t keys) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < o.lanes; j += kN) {
    float* scores = o.scores + j;
    const V before = simd::load<V>(o.peak + j);
    V peak = before;
    for (int64_t i = 0; i < keys; ++i) peak = simd::max(peak, simd::load<V>(scores + i * kBlock));
    V sum{};
    for (int64_t i = 0; i < keys; ++i) {
      const V p = exp2<V>(simd::load<V>(scores + i * kBlock) - peak);
      simd::store(scores + i * kBlock, p);
      sum += p;
    }
    const V shrink = exp2<V>(before - peak);
    simd::store(o.peak + j, peak);
    simd::store(o.total + j, simd::load<V>(o.total + j) * shrink + sum);
    for (int64_t c = 0; c < o.width; ++c) {
      float* out = o.out + c * kBlock + j;
      simd::store(out, simd::load<V>(out) * shrink);
    }
  }
}

// Takes in `keys` (at most kTile) rows of k and v, of which the first is at position `key`.
template <class V>
NESTLING_INLINE void absorb(const Online& o, const Mask& mask, int64_t key, int64_t keys,
                            Rows<const float> k, Rows<const float> v) {
  product<V>({.m = keys,
              .n = o.lanes,
              .k = o.width,
              .a = k.data,
              .a_row = k.pitch,
              .a_col = 1,
              .b = o.q,
              .ldb = kBlock,
              .c = o.scores,
              .ldc = kBlock});
  hide(mask, key, keys, o.scores);
  absorb_scores<V>(o, keys);
  const auto values = gather_rows<V>(v, keys, o.width, o.v);
  product<V>({.m = o.width,
              .n = o.lanes,
              .k = keys,
              .a = values.data,
              .a_row = 1,
              .a_col = values.pitch,
              .b = o.scores,
              .ldb = kBlock,
              .c = o.out,
              .ldc = kBlock,
              .accumulate = true});
}

}  // namespace nestling::cpu::attention
