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
#include "kernels/cpu/transpose.h"
#include "kernels/ops/segments.h"

namespace nestling::cpu::scan {

inline int64_t padded(int64_t n) {
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

// Extents that every tile is cut from.
struct Extents {
  int64_t chunk;     // tokens of the longest chunk
  int64_t channels;  // of the widest unit
  int64_t state;
  int64_t chunk_pitch, channel_pitch, state_pitch;  // padded
};

struct Unit {
  int64_t head, first, count;  // channels [first, first + count)
};

// Units [begin, end) of one group, done by one lane.
struct Piece {
  int64_t group, begin, end;
  int64_t buffer;  // where another lane does the rest of the group: numbers its own sums; else -1
};

// Pieces [begin, end), of adjacent groups, that one lane walks through the chunks together: as many
// as have room in the second level cache.
struct Bundle {
  int64_t begin, end;
  int64_t first_group, groups;
  int64_t first_unit, units;
};

struct ScanShape {
  int64_t heads, channels, state, groups;
};

inline ScanShape shape_of(ConstView x, ConstView B) {
  return {x.dim(1), x.dim(2), B.dim(1), B.dim(2)};
}

struct Plan {
  Extents e;
  std::vector<Unit> units;
  std::vector<Piece> pieces;
  std::vector<Bundle> bundles;
  std::vector<int64_t> lanes;  // lane l does bundles [lanes[l], lanes[l + 1])
  int64_t slices;              // units a head
  int64_t most_units;          // of a bundle
  int64_t most_groups;
  int64_t buffers;  // pieces that share their group
  int64_t lane_count() const { return static_cast<int64_t>(lanes.size()) - 1; }
  // The unit that follows unit i in the walk; the last is its own.
  const Unit& after(int64_t i, const Bundle& b) const {
    return units[static_cast<size_t>(std::min(i + 1, b.first_unit + b.units - 1))];
  }
};
Plan make_plan(const Segments& segments, int64_t chunk, const ScanShape& s, int64_t threads);

// The product of tile_gemm.h as a function of its own, one for each instruction set.
template <class V>
void product(const TileGemm& g);
template <>
void product<simd::F8>(const TileGemm& g);
template <>
void product<simd::F16>(const TileGemm& g);

// Rows of an operand that are needed soon. They lie pages apart, where the processor fetches nothing
// on its own; a product has time to spare for it.
struct Ahead {
  const float* data;
  int64_t pitch, rows, cols;
  bool write;  // they are about to be overwritten
};

// A product in strips of rows, and between them a share of the rows to fetch. The bits are those of
// the product in one piece.
template <class V>
NESTLING_INLINE void product(TileGemm g, const Ahead& ahead) {
  constexpr int64_t kStrip = 2 * kTileRows;
  constexpr int64_t kLine = 16;  // floats
  const int64_t strips = (g.m + kStrip - 1) / kStrip;
  const int64_t m = g.m;
  for (int64_t s = 0; s < strips; ++s) {
    for (int64_t r = ahead.rows * s / strips; r < ahead.rows * (s + 1) / strips; ++r)
      for (int64_t i = 0; i < ahead.cols; i += kLine) {
        const float* at = ahead.data + r * ahead.pitch + i;
        if (ahead.write)
          __builtin_prefetch(at, 1);
        else
          __builtin_prefetch(at, 0, 2);
      }
    g.m = std::min(kStrip, m - s * kStrip);
    product<V>(g);
    g.a += kStrip * g.a_row;
    g.c += kStrip * g.ldc;
  }
}

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
inline Ahead rows_ahead(const Source& x, int64_t t, int64_t q, const Unit& u) {
  return {x.data + t * x.token + u.head * x.other + u.first, x.token, q, u.count, false};
}
inline Target target(View v) {
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}
inline Ahead rows_ahead(const Target& x, int64_t t, int64_t q, const Unit& u) {
  return {x.data + t * x.token + u.head * x.other + u.first, x.token, q, u.count, true};
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

// dst [cols, ldd] = src [rows, lds]^T; rows and cols are multiples of kLanes.
template <class V>
NESTLING_INLINE void transpose_tile(float* dst, int64_t ldd, const float* src, int64_t lds,
                                    int64_t rows, int64_t cols) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t r = 0; r < rows; r += kN)
    for (int64_t c = 0; c < cols; c += kN) {
      V square[kN];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kN; ++i) square[i] = simd::load<V>(src + (r + i) * lds + c);
      transpose_square(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kN; ++i) simd::store(dst + (c + i) * ldd + r, square[i]);
    }
}

// tile [padded(q), pitch] = the unit's channels, zero behind them. Rows of the operand lie a power
// of two apart, in the same few sets of the cache: products read a copy.
template <class V>
NESTLING_INLINE void pack_rows(float* tile, int64_t pitch, const float* x, int64_t x_pitch,
                               int64_t q, int64_t cols) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < q; ++j) {
    int64_t p = 0;
    for (; p + kN <= cols; p += kN)
      simd::store(tile + j * pitch + p, simd::load<V>(x + j * x_pitch + p));
    for (; p < cols; ++p) tile[j * pitch + p] = x[j * x_pitch + p];
    for (; p < pitch; ++p) tile[j * pitch + p] = 0.0f;
  }
  std::fill(tile + q * pitch, tile + padded(q) * pitch, 0.0f);
}

// A state tile [count, state_pitch] to rows of N floats, past the caches: it is read in the backward
// pass, long after. Then the tile *= scale.
void save_and_scale(float* to, int64_t step, float* S, const Extents& e, int64_t count,
                    float scale);

// Row j of the tile *= scale_j.
template <class V>
NESTLING_INLINE void scale_rows(float* tile, int64_t pitch, const float* scale, int64_t q) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < q; ++j)
    for (int64_t p = 0; p < pitch; p += kN)
      simd::store(tile + j * pitch + p, simd::load<V>(tile + j * pitch + p) * scale[j]);
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
