// scan_backward_unit.h - one chunk of one unit of the chunked scan, backward; scan_backward.cpp
// walks the chunks and sums over heads.
//
// A segment's chunks are walked from the last to the first, with dS the gradient of the state
// behind the chunk. Within a chunk and head, rows i read rows j <= i:
//   L[i, j] = e^{sum_i - sum_j},  G = C B^T,  dM = dY X^T
//   V^T [P, q] = dY^T (G L) + (dS B^T) diag(tail)         dx = dt V + D dy
//   dG += dM L dt_j over the group's heads                 dC = dG B + diag(head) dY S
//                                                          dB = dG^T C + diag(dt tail) X dS
//   dS  = whole dS + (diag(head) dY)^T C                   (the gradient before the chunk)
// K = dM G L holds what each pair contributes to y: its columns give d dt_j, and its rows less its
// columns (times dt_j, without the diagonal, whose decay is one) give d sum_i; suffix sums of those
// give d log a_i.
#pragma once
#include <algorithm>
#include <cmath>

#include "kernels/cpu/scan_backward_tiles.h"

namespace nestling::cpu::scan {

template <class V>
NESTLING_INLINE void open_group(const Extents& e, const Chunk& c, const Tiles& t) {
  const int64_t width = padded(c.q);
  transpose_tile<V>(t.BT, e.chunk_pitch, t.B, e.state_pitch, width, e.state_pitch);
  for (int64_t i = 0; i < c.q; i += kBlock)
    product<V>({.m = std::min(kBlock, c.q - i),
                .n = std::min(i + kBlock, width),
                .k = e.state,
                .a = t.C + i * e.state_pitch,
                .a_row = e.state_pitch,
                .a_col = 1,
                .b = t.BT,
                .ldb = e.chunk_pitch,
                .c = t.G + i * e.chunk_pitch,
                .ldc = e.chunk_pitch});
  std::fill_n(t.dG, c.q * e.chunk_pitch, 0.0f);
  std::fill_n(t.dB, c.q * e.state_pitch, 0.0f);
  std::fill_n(t.dC, c.q * e.state_pitch, 0.0f);
}

// X, dY and X^T; then dM for j <= i in whole blocks.
template <class V>
NESTLING_INLINE void open_unit(const Backward& b, const Chunk& c, const Unit& u, const Tiles& t) {
  const Extents& e = b.plan.e;
  const int64_t width = padded(c.q);
  pack_rows<V>(t.X, e.channel_pitch, b.x.data + c.t * b.x.token + u.head * b.x.other + u.first,
               b.x.token, c.q, u.count);
  pack_rows<V>(t.dY, e.channel_pitch, b.dy.data + c.t * b.dy.token + u.head * b.dy.other + u.first,
               b.dy.token, c.q, u.count);
  transpose_tile<V>(t.XT, e.chunk_pitch, t.X, e.channel_pitch, width, padded(u.count));
  for (int64_t i = 0; i < c.q; i += kBlock)
    product<V>({.m = std::min(kBlock, c.q - i),
                .n = std::min(i + kBlock, width),
                .k = u.count,
                .a = t.dY + i * e.channel_pitch,
                .a_row = e.channel_pitch,
                .a_col = 1,
                .b = t.XT,
                .ldb = e.chunk_pitch,
                .c = t.dM + i * e.chunk_pitch,
                .ldc = e.chunk_pitch});
}

// The decay of a vector of pairs (i, j..) in one block of rows.
template <class V>
NESTLING_INLINE V near_decay(const Decays& d, int64_t i, int64_t j) {
  const V sum = (d.high[i] - simd::load<V>(d.high + j)) + (d.low[i] - simd::load<V>(d.low + j));
  return decay(sum);
}

// A vector of pairs (i, j..): GL, dG, and K's share of the row and column sums. Above the diagonal
// everything is zero; the diagonal itself is left out of the sums.
template <class V, bool kDiagonal>
NESTLING_INLINE V pair_vector(const Tiles& t, V left, int64_t i, int64_t j, int64_t row, V lane) {
  V g = simd::load<V>(t.G + row + j);
  V dm = simd::load<V>(t.dM + row + j);
  if (kDiagonal) {
    const auto above = lane > static_cast<float>(i - j);
    g = simd::select<V>(above, V{}, g);
    dm = simd::select<V>(above, V{}, dm);
  }
  const V dt = simd::load<V>(t.d.dt + j);
  const V dml = dm * left;
  simd::store(t.GL + row + j, g * left);
  simd::store(t.dG + row + j, simd::load<V>(t.dG + row + j) + dml * dt);
  V k = dml * g;
  if (kDiagonal) k = simd::select<V>(lane < static_cast<float>(i - j), k, V{});
  simd::store(t.column + j, simd::load<V>(t.column + j) + k);
  return k * dt;
}

// Everything elementwise between row i and the rows before it. `block` is the pivot of row i for
// the columns before the block of kLanes rows that it begins.
template <class V>
NESTLING_INLINE V pair_row(const Tiles& t, int64_t i, int64_t block, int64_t row, V lane) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Decays& d = t.d;
  V sum = {};
  int64_t j = 0;
  for (; j < block; j += kN)
    sum += pair_vector<V, false>(t, simd::load<V>(d.pivot + j) * d.pivot[i], i, j, row, lane);
  for (; j + kN <= i; j += kN)
    sum += pair_vector<V, false>(t, near_decay<V>(d, i, j), i, j, row, lane);
  return sum + pair_vector<V, true>(t, near_decay<V>(d, i, j), i, j, row, lane);
}

// The same for all rows of a chunk.
template <class V>
NESTLING_INLINE void pair_pass(const Chunk& c, int64_t pitch, const Tiles& t) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V lane;
  for (int64_t k = 0; k < kN; ++k) lane[k] = static_cast<float>(k);
  std::fill_n(t.column, padded(c.q), 0.0f);
  for (int64_t i = 0; i < c.q; ++i) {
    const int64_t row = i * pitch;
    const int64_t block = i / simd::kLanes * simd::kLanes;
    if (i == block && block > 0) pivot_decays<V>(t.d, block, 0, block + simd::kLanes);
    simd::store(t.row_sums + i * simd::kLanes, pair_row<V>(t, i, block, row, lane));
    t.dsum[i] = 0.0f;  // from_before adds the row's sum
    const int64_t done = i / kN * kN + kN;
    const int64_t end = std::min((i / kBlock + 1) * kBlock, pitch);
    std::fill(t.GL + row + done, t.GL + row + std::max(end, done), 0.0f);
    t.ddt[i] = t.dM[row + i] * t.G[row + i];  // the diagonal's decay is one
  }
}

// Adds the column sums: pairs within the chunk first, then (see from_behind) the state's.
NESTLING_INLINE void close_columns(const Chunk& c, const Tiles& t) {
  for (int64_t j = 0; j < c.q; ++j) {
    t.ddt[j] += t.column[j];
    t.dsum[j] -= t.column[j] * t.d.dt[j];
  }
}

// VT = (dS B^T) diag(tail), and what row j's contribution to the state behind gives to dt_j and to
// the decays that follow it. Returns the total, the share of the chunk's last sum.
template <class V>
NESTLING_INLINE double from_behind(const Backward& b, const Chunk& c, const Unit& u,
                                   const float* dS, const Tiles& t) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Extents& e = b.plan.e;
  const int64_t width = padded(c.q);
  product<V>({.m = u.count,
              .n = width,
              .k = e.state,
              .a = dS,
              .a_row = e.state_pitch,
              .a_col = 1,
              .b = t.BT,
              .ldb = e.chunk_pitch,
              .c = t.VT,
              .ldc = e.chunk_pitch},
             rows_ahead(b.dx, c.t, c.q, u));
  for (int64_t j = 0; j < width; j += kN) {
    const V tail = simd::load<V>(t.d.tail + j);
    V sum = {};
    for (int64_t p = 0; p < u.count; ++p) {
      float* at = t.VT + p * e.chunk_pitch + j;
      const V v = simd::load<V>(at) * tail;
      simd::store(at, v);
      sum += v * simd::load<V>(t.XT + p * e.chunk_pitch + j);
    }
    simd::store(t.column + j, sum);
  }
  double total = 0;
  for (int64_t j = 0; j < c.q; ++j) total += static_cast<double>(t.column[j] * t.d.dt[j]);
  return total;
}

// dx = dt V + D dy; returns the sum of dy x.
template <class V>
NESTLING_INLINE double write_dx(const Backward& b, const Chunk& c, const Unit& u, const Tiles& t) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Extents& e = b.plan.e;
  transpose_tile<V>(t.rows, e.channel_pitch, t.VT, e.chunk_pitch, padded(u.count), padded(c.q));
  float* dx = b.dx.data + c.t * b.dx.token + u.head * b.dx.other + u.first;
  const float skip = b.D[u.head];
  V dot = {};
  for (int64_t i = 0; i < c.q; ++i) {
    const float dt = t.d.dt[i];
    const int64_t row = i * e.channel_pitch;
    float* out = dx + i * b.dx.token;
    int64_t p = 0;
    for (; p + kN <= u.count; p += kN) {
      const V g = simd::load<V>(t.dY + row + p);
      dot += g * simd::load<V>(t.X + row + p);
      simd::store(out + p, dt * simd::load<V>(t.rows + row + p) + g * skip);
    }
    if (p == u.count) continue;
    const V g = simd::load<V>(t.dY + row + p);  // zero behind the channels, as X
    dot += g * simd::load<V>(t.X + row + p);
    simd::store_n(out + p, V(dt * simd::load<V>(t.rows + row + p) + g * skip), u.count - p);
  }
  return static_cast<double>(simd::sum(dot));
}

// dC += dY S with dY scaled by head; the dot products with C are what the decays up to i gain.
template <class V>
NESTLING_INLINE void from_before(const Backward& b, const Chunk& c, const Unit& u,
                                 const Ahead& next, const Tiles& t) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Extents& e = b.plan.e;
  product<V>({.m = c.q,
              .n = e.state,
              .k = u.count,
              .a = t.dY,
              .a_row = e.channel_pitch,
              .a_col = 1,
              .b = b.chunk_states.at(c.number, u),
              .ldb = b.chunk_states.channel,
              .c = t.one,
              .ldc = e.state_pitch},
             next);
  for (int64_t i = 0; i < c.q; ++i) {
    const int64_t row = i * e.state_pitch;
    for (int64_t n = e.state; n < e.state_pitch; ++n) t.one[row + n] = 0.0f;
    V dot = simd::load<V>(t.row_sums + i * simd::kLanes);
    for (int64_t n = 0; n < e.state_pitch; n += kN) {
      const V v = simd::load<V>(t.one + row + n);
      dot += v * simd::load<V>(t.C + row + n);
      simd::store(t.dC + row + n, simd::load<V>(t.dC + row + n) + v);
    }
    t.dsum[i] += simd::sum(dot);
  }
}

// <S, dS> of the states before and behind a chunk.
template <class V>
NESTLING_INLINE double state_dot(const Backward& b, const Chunk& c, const Unit& u,
                                 const float* dS) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Extents& e = b.plan.e;
  const float* S = b.chunk_states.at(c.number, u);
  V dot = {};
  double rest = 0;
  for (int64_t p = 0; p < u.count; ++p) {
    const float* before = S + p * b.chunk_states.channel;
    const float* behind = dS + p * e.state_pitch;
    int64_t n = 0;
    for (; n + kN <= e.state; n += kN) dot += simd::load<V>(before + n) * simd::load<V>(behind + n);
    for (; n < e.state; ++n) rest += static_cast<double>(before[n] * behind[n]);
  }
  return static_cast<double>(simd::sum(dot)) + rest;
}

// dB += diag(dt tail) X dS. Overwrites X.
template <class V>
NESTLING_INLINE void behind_to_b(const Extents& e, const Chunk& c, const Unit& u, const float* dS,
                                 const Ahead& next, const Tiles& t) {
  scale_columns<V>(t.d.tail, 0, t.d.dt, 1, padded(c.q));
  scale_rows<V>(t.X, e.channel_pitch, t.d.tail, c.q);
  product<V>({.m = c.q,
              .n = e.state_pitch,
              .k = u.count,
              .a = t.X,
              .a_row = e.channel_pitch,
              .a_col = 1,
              .b = dS,
              .ldb = e.state_pitch,
              .c = t.dB,
              .ldc = e.state_pitch,
              .accumulate = true},
             next);
}

// dS before the chunk from dS behind it, with dY scaled by head.
template <class V>
NESTLING_INLINE void move_state(const Extents& e, const Chunk& c, const Unit& u, float* dS,
                                const Tiles& t) {
  if (!c.last) scale_all<V>(dS, t.d.whole, u.count * e.state_pitch);
  product<V>({.m = u.count,
              .n = e.state_pitch,
              .k = c.q,
              .a = t.dY,
              .a_row = 1,
              .a_col = e.channel_pitch,
              .b = t.C,
              .ldb = e.state_pitch,
              .c = dS,
              .ldc = e.state_pitch,
              .accumulate = !c.last});
}

// From d dt with the decays fixed and d sum to d dt_raw, and to A_log and dt_bias.
template <class V>
NESTLING_INLINE void finish_dt(const Backward& b, const Chunk& c, int64_t unit, double rate,
                               double last_sum, const Tiles& t) {
  UnitSums& sums = b.sums[unit];
  float* out = b.ddt + unit * b.tokens + c.t;
  float* slope = t.d.pivot;  // of softplus
  for (int64_t j = 0; j < c.q; j += simd::kLanesOf<V>)
    simd::store(slope + j, simd::sigmoid(simd::load<V>(t.d.raw + j)));
  double dlog = last_sum;  // d log a_i: all sums from i on contain it
  for (int64_t i = c.q - 1; i >= 0; --i) {
    dlog += static_cast<double>(t.dsum[i]);
    const double dt = static_cast<double>(t.d.dt[i]);
    const double ddt =
        (static_cast<double>(t.ddt[i]) - rate * dlog) * static_cast<double>(slope[i]);
    sums.dA_log -= rate * dt * dlog;
    sums.ddt_bias += ddt;
    out[i] = static_cast<float>(ddt);
  }
}

template <class V>
NESTLING_INLINE void backward_unit(const Backward& b, const Chunk& c, int64_t unit, float* dS,
                                   const Unit& next, Tiles& t) {
  const Extents& e = b.plan.e;
  const Unit& u = b.plan.units[static_cast<size_t>(unit)];
  const double rate = std::exp(static_cast<double>(b.A_log[u.head]));
  const int64_t width = padded(c.q);
  fill_decays<V>(t.d, width, b.dt_raw.data + c.t * b.dt_raw.token + u.head, b.dt_raw.token,
                 b.dt_bias[u.head], rate, c.q);
  open_unit<V>(b, c, u, t);
  pair_pass<V>(c, e.chunk_pitch, t);
  close_columns(c, t);
  double last_sum = 0;
  if (!c.last) {
    last_sum =
        from_behind<V>(b, c, u, dS, t) + state_dot<V>(b, c, u, dS) * static_cast<double>(t.d.whole);
    close_columns(c, t);
  }
  // From the widest block of rows to the narrowest: the first reaches every column.
  for (int64_t i = (c.q - 1) / kBlock * kBlock; i >= 0; i -= kBlock)
    product<V>({.m = u.count,
                .n = std::min(i + kBlock, width),
                .k = std::min(kBlock, c.q - i),
                .a = t.dY + i * e.channel_pitch,
                .a_row = 1,
                .a_col = e.channel_pitch,
                .b = t.GL + i * e.chunk_pitch,
                .ldb = e.chunk_pitch,
                .c = t.VT,
                .ldc = e.chunk_pitch,
                .accumulate = !c.last || i + kBlock < c.q});
  b.sums[unit].dD += write_dx<V>(b, c, u, t);
  if (!c.last) behind_to_b<V>(e, c, u, dS, rows_ahead(b.x, c.t, c.q, next), t);
  scale_rows<V>(t.dY, e.channel_pitch, t.d.head, c.q);
  from_before<V>(b, c, u, rows_ahead(b.dy, c.t, c.q, next), t);
  if (!c.first) move_state<V>(e, c, u, dS, t);
  finish_dt<V>(b, c, unit, rate, last_sum, t);
}

}  // namespace nestling::cpu::scan
