// scan_tiles.h - what the chunked scan's forward and backward share: how the work is dealt to
// threads, the decays of a chunk, and the movement of tiles. Internal to kernels/cpu/scan*.cpp.
//
// Unit          a run of channels of one head: the least piece of work. Units are listed group by
//               group, so that a thread's units share C B^T.
// Tile          a chunk's operand in contiguous scratch; rows are padded with zeros to kLanes.
// Letters       q tokens in the chunk, i the row that reads, j <= i the row that is read.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/core/simd.h"
#include "kernels/core/view.h"
#include "kernels/cpu/tile_gemm.h"
#include "kernels/ops/segments.h"

namespace nestling::cpu::scan {

inline int64_t padded(int64_t n) {
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

struct Unit {
  int64_t head, first, count;  // channels [first, first + count)
};

// Units [begin, end) of one group, done by one lane.
struct Piece {
  int64_t group, begin, end;
  int64_t buffer;  // where another lane does the rest of the group: numbers its own sums; else -1
};

struct Plan {
  std::vector<Unit> units;
  std::vector<Piece> pieces;
  std::vector<int64_t> lanes;  // lane l does pieces [lanes[l], lanes[l + 1])
  int64_t slices;              // units a head
  int64_t most_units;          // of a piece
  int64_t buffers;             // pieces that share their group
  int64_t lane_count() const { return static_cast<int64_t>(lanes.size()) - 1; }
};
Plan make_plan(int64_t heads, int64_t channels, int64_t groups, int64_t threads);

// Extents that every tile is cut from.
struct Extents {
  int64_t chunk;     // tokens of the longest chunk
  int64_t channels;  // of the widest unit
  int64_t state;
  int64_t chunk_pitch, channel_pitch, state_pitch;  // padded
};
Extents make_extents(const Segments& segments, int64_t chunk, int64_t channels, int64_t state);

// The product of tile_gemm.h as a function of its own, one for each instruction set.
template <class V>
void product(const TileGemm& g);
template <>
void product<simd::F8>(const TileGemm& g);
template <>
void product<simd::F16>(const TileGemm& g);

// Rows [tokens] of a strided operand.
struct Source {
  const float* data;
  int64_t token, other;  // floats from token to token, and along dim 1
  int64_t inner;         // extent of dim 2
};
inline Source source(ConstView v) {
  return {v.ptr<float>(), v.stride(0), v.stride(1), v.rank() > 2 ? v.dim(2) : 1};
}
struct Target {
  float* data;
  int64_t token, other;
};
inline Target target(View v) {
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}

// State-like operands [n, H, P, N].
struct States {
  float* data = nullptr;
  int64_t outer = 0, head = 0, channel = 0;
  explicit operator bool() const { return data != nullptr; }
  float* at(int64_t i, const Unit& u) const {
    return data + i * outer + u.head * head + u.first * channel;
  }
};
inline States states(View v) {
  if (!v) return {};
  return {v.ptr<float>(), v.stride(0), v.stride(1), v.stride(2)};
}
struct ConstStates {
  const float* data = nullptr;
  int64_t outer = 0, head = 0, channel = 0;
  explicit operator bool() const { return data != nullptr; }
  const float* at(int64_t i, const Unit& u) const {
    return data + i * outer + u.head * head + u.first * channel;
  }
};
inline ConstStates states(ConstView v) {
  if (!v) return {};
  return {v.ptr<float>(), v.stride(0), v.stride(1), v.stride(2)};
}

// dst [cols, rows] = src [rows, cols]^T.
NESTLING_INLINE void transpose_8x8(float* dst, int64_t ldd, const float* src, int64_t lds) {
  using simd::F8;
  F8 r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = simd::load<F8>(src + i * lds);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const int b = 4 * i;
    r[b] = __builtin_shufflevector(s[b], s[b + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[b + 1] = __builtin_shufflevector(s[b], s[b + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[b + 2] = __builtin_shufflevector(s[b + 1], s[b + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[b + 3] = __builtin_shufflevector(s[b + 1], s[b + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    simd::store(dst + i * ldd,
                F8(__builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11)));
    simd::store(dst + (i + 4) * ldd,
                F8(__builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15)));
  }
}
NESTLING_INLINE void transpose(float* dst, int64_t ldd, const float* src, int64_t lds, int64_t rows,
                               int64_t cols) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 8 <= cols; c += 8) transpose_8x8(dst + c * ldd + r, ldd, src + r * lds + c, lds);
    for (; c < cols; ++c)
      for (int64_t i = 0; i < 8; ++i) dst[c * ldd + r + i] = src[(r + i) * lds + c];
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) dst[c * ldd + r] = src[r * lds + c];
}

// The even (kOdd = 0) or odd floats of two vectors that follow one another.
template <int kOdd>
NESTLING_INLINE simd::F8 every_other(simd::F8 a, simd::F8 b) {
  return __builtin_shufflevector(a, b, kOdd, 2 + kOdd, 4 + kOdd, 6 + kOdd, 8 + kOdd, 10 + kOdd,
                                 12 + kOdd, 14 + kOdd);
}
template <int kOdd>
NESTLING_INLINE simd::F16 every_other(simd::F16 a, simd::F16 b) {
  return __builtin_shufflevector(a, b, kOdd, 2 + kOdd, 4 + kOdd, 6 + kOdd, 8 + kOdd, 10 + kOdd,
                                 12 + kOdd, 14 + kOdd, 16 + kOdd, 18 + kOdd, 20 + kOdd, 22 + kOdd,
                                 24 + kOdd, 26 + kOdd, 28 + kOdd, 30 + kOdd);
}

// Every kStride-th float of kStride vectors, from the g-th on; kStride is a power of two. Halves
// them by one bit of g at a time.
template <class V, int kStride>
NESTLING_INLINE V every(const float* p, int64_t g) {
  if constexpr (kStride == 1) {
    return simd::load<V>(p);
  } else {
    // The last bit of g chooses between neighbours; the rest among what both halves keep.
    constexpr int kHalf = kStride / 2;
    const V a = every<V, kHalf>(p, g % kHalf);
    const V b = every<V, kHalf>(p + kHalf * simd::kLanesOf<V>, g % kHalf);
    return g < kHalf ? every_other<0>(a, b) : every_other<1>(a, b);
  }
}

// tile [q, pitch] = group g of src [T, N, G] from token t on, zero behind N.
template <class V>
NESTLING_INLINE void gather_group(float* tile, int64_t pitch, const Source& src, int64_t t,
                                  int64_t q, int64_t g, int64_t state) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  // Rows without gaps may be read whole.
  const int64_t stride = src.inner == src.other ? src.other : 0;
  for (int64_t j = 0; j < q; ++j) {
    const float* from = src.data + (t + j) * src.token;
    float* to = tile + j * pitch;
    int64_t n = 0;
    for (; stride == 1 && n + kN <= state; n += kN) simd::store(to + n, simd::load<V>(from + n));
    for (; stride == 2 && n + kN <= state; n += kN)
      simd::store(to + n, every<V, 2>(from + n * 2, g));
    for (; stride == 4 && n + kN <= state; n += kN)
      simd::store(to + n, every<V, 4>(from + n * 4, g));
    for (; stride == 8 && n + kN <= state; n += kN)
      simd::store(to + n, every<V, 8>(from + n * 8, g));
    for (; n < state; ++n) to[n] = from[n * src.other + g];
    std::fill(to + state, to + pitch, 0.0f);
  }
}

// tile [cols, pitch] = src [q, cols]^T, zero behind q.
NESTLING_INLINE void transpose_tile(float* tile, int64_t pitch, const float* src, int64_t lds,
                                    int64_t q, int64_t cols) {
  transpose(tile, pitch, src, lds, q, cols);
  if (q == pitch) return;
  for (int64_t c = 0; c < cols; ++c) std::fill(tile + c * pitch + q, tile + (c + 1) * pitch, 0.0f);
}

// tile [q, pitch] = scale_j x_j for the unit's channels; the padding is not written.
template <class V>
NESTLING_INLINE void scaled_rows(float* tile, int64_t pitch, const float* x, int64_t x_pitch,
                                 const float* scale, int64_t q, int64_t cols) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < q; ++j) {
    int64_t p = 0;
    for (; p + kN <= cols; p += kN)
      simd::store(tile + j * pitch + p, simd::load<V>(x + j * x_pitch + p) * scale[j]);
    for (; p < cols; ++p) tile[j * pitch + p] = x[j * x_pitch + p] * scale[j];
  }
}

// x *= scale, elementwise along rows of n (a multiple of kLanes), or by one number.
template <class V>
NESTLING_INLINE void scale_columns(float* x, int64_t pitch, const float* scale, int64_t rows,
                                   int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < n; c += kN)
      simd::store(x + r * pitch + c, simd::load<V>(x + r * pitch + c) * simd::load<V>(scale + c));
}
template <class V>
NESTLING_INLINE void scale_all(float* x, float scale, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t i = 0; i < n; i += kN) simd::store(x + i, simd::load<V>(x + i) * scale);
}

// log(1 + e^x), relative error of some units in the last place on both sides: with u = e^-|x| in
// (0, 1] and s = u / (2 + u) <= 1/3, log(1 + u) = 2 atanh(s); the odd series to s^15 leaves
// s^16 / 17 < 2e-9 of the sum.
template <class V>
NESTLING_INLINE V softplus(V x) {
  const V zero = {};
  const V u = simd::exp(simd::min(x, -x));
  const V s = u / (2.0f + u);
  const V s2 = s * s;
  V series = simd::splat<V>(1.0f / 15.0f);
  series = series * s2 + 1.0f / 13.0f;
  series = series * s2 + 1.0f / 11.0f;
  series = series * s2 + 1.0f / 9.0f;
  series = series * s2 + 1.0f / 7.0f;
  series = series * s2 + 1.0f / 5.0f;
  series = series * s2 + 1.0f / 3.0f;
  series = series * s2 + 1.0f;
  return simd::max(x, zero) + 2.0f * s * series;
}

// e^sum for sums of log a, which are never positive. Below e^-32 = 1.3e-14, a millionth of a unit in
// the last place of what has not decayed, nothing is left: so that no product of two decays comes
// near the subnormal numbers, each of which costs the processor a hundred cycles.
template <class V>
NESTLING_INLINE V decay(V sum) {
  return simd::select<V>(sum < simd::splat<V>(-32.0f), V{}, simd::exp(simd::min(sum, V{})));
}

// The decays of one head over one chunk, rows of chunk_pitch floats. The running sum of
// log a = -rate dt is kept in two floats, high + low, so that a difference of two of them is good
// to a unit in the last place of the difference, however large the sums: exp then loses nothing.
struct Decays {
  float* raw;   // dt_raw + dt_bias
  float* dt;    // softplus(raw); zero behind q
  float* high;  // sum of log a up to and including i
  float* low;
  float* head;   // exp(sum up to i): what the state before the chunk has left at i
  float* tail;   // exp(sum behind j): what row j's input has left at the end; zero behind q
  float* pivot;  // scratch of the pairs, see pivot_decays
  float whole;   // exp(sum of the chunk)
};
inline constexpr int64_t kDecayRows = 7;

inline Decays make_decays(float* at, int64_t pitch) {
  return {at,
          at + pitch,
          at + 2 * pitch,
          at + 3 * pitch,
          at + 4 * pitch,
          at + 5 * pitch,
          at + 6 * pitch,
          0.0f};
}

template <class V>
NESTLING_INLINE void fill_decays(Decays& d, int64_t pitch, const float* dt_raw, int64_t step,
                                 float bias, double rate, int64_t q) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < q; ++j) d.raw[j] = dt_raw[j * step] + bias;
  std::fill(d.raw + q, d.raw + pitch, 0.0f);
  for (int64_t j = 0; j < pitch; j += kN) simd::store(d.dt + j, softplus(simd::load<V>(d.raw + j)));
  std::fill(d.dt + q, d.dt + pitch, 0.0f);
  double sum = 0;
  for (int64_t j = 0; j < pitch; ++j) {
    sum -= rate * static_cast<double>(d.dt[j]);
    d.high[j] = static_cast<float>(sum);
    d.low[j] = static_cast<float>(sum - static_cast<double>(d.high[j]));
  }
  const float high = d.high[pitch - 1];
  const float low = d.low[pitch - 1];
  for (int64_t j = 0; j < pitch; j += kN) {
    const V e = decay(simd::load<V>(d.high + j));
    simd::store(d.head + j, e + e * simd::load<V>(d.low + j));
    const V rest = (high - simd::load<V>(d.high + j)) + (low - simd::load<V>(d.low + j));
    simd::store(d.tail + j, decay(rest));
  }
  d.whole = d.head[pitch - 1];
  std::fill(d.head + q, d.head + pitch, 0.0f);
  std::fill(d.tail + q, d.tail + pitch, 0.0f);
}

// What decays between rows [begin, end) and row `at` of a chunk, which lies before or behind them
// all, into d.pivot. A pair i >= at >= j then decays by pivot_i pivot_j: both are at most one, so
// the product is as good as its factors however far the pair, and a chunk takes an exponential for
// each row and pivot instead of one for each pair. The edges are multiples of kLanes.
template <class V>
NESTLING_INLINE void pivot_decays(const Decays& d, int64_t at, int64_t begin, int64_t end) {
  const float high = d.high[at];
  const float low = d.low[at];
  for (int64_t j = begin; j < end; j += simd::kLanesOf<V>) {
    const V sum = (simd::load<V>(d.high + j) - high) + (simd::load<V>(d.low + j) - low);
    simd::store(d.pivot + j, decay(simd::min(sum, -sum)));
  }
}

// Columns this many at a time share one causal bound in the products.
inline constexpr int64_t kBlock = 32;

}  // namespace nestling::cpu::scan
