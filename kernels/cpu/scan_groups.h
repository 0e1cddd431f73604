// scan_groups.h - B, C and their gradients [T, N, G] to and from tiles of one group each.
//
// The groups of a token lie side by side, so a line of memory holds some of every group: adjacent
// groups are taken apart, or put together, in registers, and a line is touched once for all of
// them. Tile i holds group `first` + i at tiles + i * step, rows of pitch floats, zero behind N.
// Internal to kernels/cpu/scan*.
#pragma once
#include <cstring>
#include <utility>

#include "kernels/cpu/scan_tiles.h"

namespace nestling::cpu::scan {

struct GroupTiles {
  float* data;
  int64_t step, pitch;
  int64_t first, count;  // groups
  float* row(int64_t i, int64_t j) const { return data + i * step + j * pitch; }
};

// Two vectors hold kGroups values of each of some n: the lower (0) or upper (1) half of the groups.
template <int kGroups, int kHalf, class V, int... kLane>
NESTLING_INLINE V take_half(V a, V b, std::integer_sequence<int, kLane...>) {
  constexpr int kKept = kGroups / 2;
  return __builtin_shufflevector(a, b,
                                 (kLane / kKept * kGroups + kHalf * kKept + kLane % kKept)...);
}
// Its inverse: the first (0) or second (1) vector of those that low and high were taken from.
template <int kGroups, int kSecond, class V, int... kLane>
NESTLING_INLINE V join_halves(V low, V high, std::integer_sequence<int, kLane...>) {
  constexpr int kN = sizeof...(kLane);
  constexpr int kKept = kGroups / 2;
  return __builtin_shufflevector(low, high,
                                 ((kLane + kSecond * kN) / kGroups * kKept + kLane % kKept +
                                  (kLane % kGroups < kKept ? 0 : kN))...);
}
template <class V>
using LaneList = std::make_integer_sequence<int, static_cast<int>(simd::kLanesOf<V>)>;

// Takes kGroups vectors apart into those tiles, groups kBase.., that are wanted.
template <class V, int kGroups, int kBase>
NESTLING_INLINE void deal(const V* in, const GroupTiles& to, int64_t at) {
  if constexpr (kGroups == 1) {
    simd::store(to.data + (kBase - to.first) * to.step + at, in[0]);
  } else {
    constexpr int kKept = kGroups / 2;
    constexpr int kMiddle = kBase + kKept;
    V half[kKept];
    if (to.first < kMiddle && to.first + to.count > kBase) {
#pragma GCC unroll 4
      for (int i = 0; i < kKept; ++i)
        half[i] = take_half<kGroups, 0>(in[2 * i], in[2 * i + 1], LaneList<V>{});
      deal<V, kKept, kBase>(half, to, at);
    }
    if (to.first < kBase + kGroups && to.first + to.count > kMiddle) {
#pragma GCC unroll 4
      for (int i = 0; i < kKept; ++i)
        half[i] = take_half<kGroups, 1>(in[2 * i], in[2 * i + 1], LaneList<V>{});
      deal<V, kKept, kMiddle>(half, to, at);
    }
  }
}

// One row of all wanted groups; returns the n done.
template <class V, int kGroups>
NESTLING_INLINE int64_t deal_row(const float* from, const GroupTiles& to, int64_t j,
                                 int64_t n_end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t n = 0;
  for (; n + kN <= n_end; n += kN) {
    V in[kGroups];
#pragma GCC unroll 8
    for (int i = 0; i < kGroups; ++i) in[i] = simd::load<V>(from + n * kGroups + i * kN);
    deal<V, kGroups, 0>(in, to, j * to.pitch + n);
  }
  return n;
}

// Tokens [t, t + q) of src.
template <class V>
NESTLING_INLINE void gather_groups(const GroupTiles& to, const Source& src, int64_t t, int64_t q,
                                   int64_t state) {
  // Rows without gaps may be read whole.
  const int64_t stride = src.inner == src.other ? src.other : 0;
  for (int64_t j = 0; j < q; ++j) {
    const float* from = src.data + (t + j) * src.token;
    int64_t done = 0;
    if (stride == 1) done = deal_row<V, 1>(from, to, j, state);
    if (stride == 2) done = deal_row<V, 2>(from, to, j, state);
    if (stride == 4) done = deal_row<V, 4>(from, to, j, state);
    if (stride == 8) done = deal_row<V, 8>(from, to, j, state);
    for (int64_t i = 0; i < to.count; ++i) {
      float* row = to.row(i, j);
      for (int64_t n = done; n < state; ++n) row[n] = from[n * src.other + to.first + i];
      for (int64_t n = state; n < to.pitch; ++n) row[n] = 0.0f;
    }
  }
}

// Rows [q, padded(q)) become zero, for a transpose of whole squares.
inline void clear_behind(const GroupTiles& tiles, int64_t q) {
  for (int64_t i = 0; i < tiles.count; ++i)
    std::fill(tiles.row(i, q), tiles.row(i, padded(q)), 0.0f);
}

// kGroups tiles as vectors that hold kGroups values of each n.
template <class V, int kGroups>
NESTLING_INLINE void collect(const GroupTiles& from, int64_t i, int64_t at, V* out) {
  if constexpr (kGroups == 1) {
    out[0] = simd::load<V>(from.data + i * from.step + at);
  } else {
    constexpr int kKept = kGroups / 2;
    V low[kKept], high[kKept];
    collect<V, kKept>(from, i, at, low);
    collect<V, kKept>(from, i + kKept, at, high);
#pragma GCC unroll 4
    for (int k = 0; k < kKept; ++k) {
      out[2 * k] = join_halves<kGroups, 0>(low[k], high[k], LaneList<V>{});
      out[2 * k + 1] = join_halves<kGroups, 1>(low[k], high[k], LaneList<V>{});
    }
  }
}

// One row of kGroups tiles; returns the n done.
template <class V, int kGroups>
NESTLING_INLINE int64_t collect_row(const GroupTiles& from, int64_t j, float* to, int64_t stride,
                                    int64_t n_end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t n = 0;
  for (; n + kN <= n_end; n += kN) {
    V out[kGroups];
    collect<V, kGroups>(from, 0, j * from.pitch + n, out);
    float* at = to + n * stride;
    if (stride == kGroups) {
#pragma GCC unroll 8
      for (int i = 0; i < kGroups; ++i) simd::store(at + i * kN, out[i]);
    } else {
      float flat[kGroups * kN];
      std::memcpy(flat, out, sizeof flat);
#pragma GCC unroll 16
      for (int64_t k = 0; k < kN; ++k)
        std::memcpy(at + k * stride, flat + k * kGroups, kGroups * sizeof(float));
    }
  }
  return n;
}

// dst [T, N, G] = the tiles, tokens [t, t + q); other groups are not touched.
template <class V>
NESTLING_INLINE void scatter_groups(const GroupTiles& from, const Target& dst, int64_t t, int64_t q,
                                    int64_t state) {
  for (int64_t j = 0; j < q; ++j) {
    float* to = dst.data + (t + j) * dst.token + from.first;
    int64_t done = 0;
    if (from.count == 1) done = collect_row<V, 1>(from, j, to, dst.other, state);
    if (from.count == 2) done = collect_row<V, 2>(from, j, to, dst.other, state);
    if (from.count == 4) done = collect_row<V, 4>(from, j, to, dst.other, state);
    if (from.count == 8) done = collect_row<V, 8>(from, j, to, dst.other, state);
    for (int64_t i = 0; i < from.count; ++i)
      for (int64_t n = done; n < state; ++n) to[n * dst.other + i] = from.row(i, j)[n];
  }
}

}  // namespace nestling::cpu::scan
