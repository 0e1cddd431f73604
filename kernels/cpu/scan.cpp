// The chunked scan, forward. For each chunk and head, transposed so that nothing but y is
// rearranged:
//   Y^T [P, q] = (S C^T) diag(head) + X^T M^T,   M^T[j, i] = (B C^T)[j, i] e^{sum_i - sum_j} dt_j
//   S   [P, N] = whole S + (diag(dt tail) X)^T B
#include "kernels/ops/scan.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/cpu/scan_tiles.h"

namespace nestling::cpu {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Forward {
  Extents e;
  Plan plan;
  const Segments* segments;
  int64_t chunk;
  Source x, dt_raw, B, C;  // dt_raw.other is 1
  const float* A_log;
  const float* D;
  const float* dt_bias;
  Target y;
  States chunk_states, final_state;
  ConstStates initial;
};

// One thread's tiles.
struct Tiles {
  float* B;   // [q, state_pitch]
  float* C;   // [q, state_pitch]
  float* CT;  // [N, chunk_pitch]
  float* BC;  // [q, chunk_pitch] B C^T, columns i >= j
  float* M;   // [q, chunk_pitch] M^T
  float* X;   // [q, channel_pitch] x dt tail
  float* Y;   // [P, chunk_pitch]
  float* S;   // [units, P, state_pitch]
  Decays d;
};

int64_t tile_floats(const Extents& e, int64_t units) {
  return 2 * e.chunk * e.state_pitch + e.state * e.chunk_pitch + 2 * e.chunk * e.chunk_pitch +
         e.chunk * e.channel_pitch + e.channels * e.chunk_pitch +
         units * e.channels * e.state_pitch + kDecayRows * e.chunk_pitch;
}

Tiles make_tiles(float* at, const Extents& e, int64_t units) {
  const auto take = [&](int64_t n) {
    float* p = at;
    at += n;
    return p;
  };
  Tiles t{};
  t.B = take(e.chunk * e.state_pitch);
  t.C = take(e.chunk * e.state_pitch);
  t.CT = take(e.state * e.chunk_pitch);
  t.BC = take(e.chunk * e.chunk_pitch);
  t.M = take(e.chunk * e.chunk_pitch);
  t.X = take(e.chunk * e.channel_pitch);
  t.Y = take(e.channels * e.chunk_pitch);
  t.S = take(units * e.channels * e.state_pitch);
  t.d = make_decays(take(kDecayRows * e.chunk_pitch), e.chunk_pitch);
  return t;
}

// A chunk: tokens [t, t + q) of a segment; `number` counts over all segments.
struct Chunk {
  int64_t t, q, number, segment;
  bool has_state;     // there is a state before it
  bool leaves_state;  // somebody reads the state behind it
};

// The group's tiles, shared by its heads.
template <class V>
NESTLING_INLINE void load_group(const Forward& f, const Chunk& c, int64_t group, const Tiles& t) {
  const Extents& e = f.e;
  gather_group(t.B, e.state_pitch, f.B, c.t, c.q, group, e.state);
  gather_group(t.C, e.state_pitch, f.C, c.t, c.q, group, e.state);
  transpose_tile(t.CT, e.chunk_pitch, t.C, e.state_pitch, c.q, e.state);
  const int64_t width = padded(c.q);
  for (int64_t i = 0; i < width; i += kBlock)
    product<V>({.m = std::min(i + kBlock, c.q),
                .n = std::min(kBlock, width - i),
                .k = e.state,
                .a = t.B,
                .a_row = e.state_pitch,
                .a_col = 1,
                .b = t.CT + i,
                .ldb = e.chunk_pitch,
                .c = t.BC + i,
                .ldc = e.chunk_pitch});
}

// M^T in blocks of kLanes rows j, whose last row is their pivot for the columns behind the block;
// zero for i < j as far as the products read.
template <class V>
NESTLING_INLINE void fill_m(const Tiles& t, int64_t q, int64_t pitch) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Decays& d = t.d;
  const int64_t width = padded(q);
  for (int64_t block = 0; block < q; block += simd::kLanes) {
    const int64_t behind = block + simd::kLanes;
    if (behind < width) pivot_decays<V>(d, behind - 1, block, width);
    for (int64_t j = block; j < std::min(behind, q); ++j) {
      float* m = t.M + j * pitch;
      const float* bc = t.BC + j * pitch;
      int64_t i = j / kN * kN;
      for (; i < behind; i += kN) {
        const V sum =
            (simd::load<V>(d.high + i) - d.high[j]) + (simd::load<V>(d.low + i) - d.low[j]);
        simd::store(m + i, simd::load<V>(bc + i) * decay(sum) * d.dt[j]);
      }
      const float near = i < width ? d.pivot[j] * d.dt[j] : 0.0f;
      for (; i < width; i += kN)
        simd::store(m + i, simd::load<V>(bc + i) * (simd::load<V>(d.pivot + i) * near));
      std::fill(m + j / kBlock * kBlock, m + j, 0.0f);
    }
  }
}

// y = Y^T^T + D x.
template <class V>
NESTLING_INLINE void write_y(const Forward& f, const Chunk& c, const Unit& u, const float* Y) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const int64_t column = u.head * f.y.other + u.first;
  float* y = f.y.data + c.t * f.y.token + column;
  transpose(y, f.y.token, Y, f.e.chunk_pitch, u.count, c.q);
  const float skip = f.D[u.head];
  for (int64_t i = 0; i < c.q; ++i) {
    const float* x = f.x.data + (c.t + i) * f.x.token + u.head * f.x.other + u.first;
    float* row = y + i * f.y.token;
    int64_t p = 0;
    for (; p + kN <= u.count; p += kN)
      simd::store(row + p, simd::load<V>(row + p) + simd::load<V>(x + p) * skip);
    for (; p < u.count; ++p) row[p] += x[p] * skip;
  }
}

template <class V>
NESTLING_INLINE void forward_y(const Forward& f, const Chunk& c, const Unit& u, const float* S,
                               const Tiles& t) {
  const Extents& e = f.e;
  const float* x = f.x.data + c.t * f.x.token + u.head * f.x.other + u.first;
  const int64_t width = padded(c.q);
  if (c.has_state) {
    product<V>({.m = u.count,
                .n = width,
                .k = e.state,
                .a = S,
                .a_row = e.state_pitch,
                .a_col = 1,
                .b = t.CT,
                .ldb = e.chunk_pitch,
                .c = t.Y,
                .ldc = e.chunk_pitch});
    scale_columns<V>(t.Y, e.chunk_pitch, t.d.head, u.count, width);
  }
  for (int64_t i = 0; i < width; i += kBlock)
    product<V>({.m = u.count,
                .n = std::min(kBlock, width - i),
                .k = std::min(i + kBlock, c.q),
                .a = x,
                .a_row = 1,
                .a_col = f.x.token,
                .b = t.M + i,
                .ldb = e.chunk_pitch,
                .c = t.Y + i,
                .ldc = e.chunk_pitch,
                .accumulate = c.has_state});
  write_y<V>(f, c, u, t.Y);
}

template <class V>
NESTLING_INLINE void forward_state(const Forward& f, const Chunk& c, const Unit& u, float* S,
                                   const Tiles& t) {
  const Extents& e = f.e;
  const float* x = f.x.data + c.t * f.x.token + u.head * f.x.other + u.first;
  scale_columns<V>(t.d.tail, 0, t.d.dt, 1, padded(c.q));
  scaled_rows<V>(t.X, e.channel_pitch, x, f.x.token, t.d.tail, c.q, u.count);
  if (c.has_state) scale_all<V>(S, t.d.whole, u.count * e.state_pitch);
  product<V>({.m = u.count,
              .n = e.state_pitch,
              .k = c.q,
              .a = t.X,
              .a_row = 1,
              .a_col = e.channel_pitch,
              .b = t.B,
              .ldb = e.state_pitch,
              .c = S,
              .ldc = e.state_pitch,
              .accumulate = c.has_state});
}

// A state tile [count, state_pitch] to or from rows of N floats.
void save_state(float* to, int64_t step, const float* S, const Extents& e, int64_t count) {
  for (int64_t p = 0; p < count; ++p) std::copy_n(S + p * e.state_pitch, e.state, to + p * step);
}
void load_state(float* S, const float* from, int64_t step, const Extents& e, int64_t count) {
  for (int64_t p = 0; p < count; ++p) {
    float* row = S + p * e.state_pitch;
    if (from != nullptr)
      std::copy_n(from + p * step, e.state, row);
    else
      std::fill_n(row, e.state, 0.0f);
    std::fill(row + e.state, row + e.state_pitch, 0.0f);
  }
}

template <class V>
NESTLING_INLINE void forward_chunk(const Forward& f, const Chunk& c, const Piece& piece, Tiles& t) {
  const Extents& e = f.e;
  load_group<V>(f, c, piece.group, t);
  for (int64_t i = piece.begin; i < piece.end; ++i) {
    const Unit& u = f.plan.units[static_cast<size_t>(i)];
    float* S = t.S + (i - piece.begin) * e.channels * e.state_pitch;
    fill_decays<V>(t.d, padded(c.q), f.dt_raw.data + c.t * f.dt_raw.token + u.head, f.dt_raw.token,
                   f.dt_bias[u.head], std::exp(static_cast<double>(f.A_log[u.head])), c.q);
    if (f.chunk_states)
      save_state(f.chunk_states.at(c.number, u), f.chunk_states.channel, S, e, u.count);
    fill_m<V>(t, c.q, e.chunk_pitch);
    forward_y<V>(f, c, u, S, t);
    if (c.leaves_state) forward_state<V>(f, c, u, S, t);
  }
}

template <class V>
NESTLING_INLINE void forward_piece(const Forward& f, const Piece& piece, Tiles& t) {
  const Extents& e = f.e;
  int64_t number = 0;
  for (int64_t s = 0; s < f.segments->count(); ++s) {
    for (int64_t i = piece.begin; i < piece.end; ++i) {
      const Unit& u = f.plan.units[static_cast<size_t>(i)];
      load_state(t.S + (i - piece.begin) * e.channels * e.state_pitch,
                 f.initial ? f.initial.at(s, u) : nullptr, f.initial.channel, e, u.count);
    }
    const int64_t begin = f.segments->begin(s);
    const int64_t end = f.segments->end(s);
    for (int64_t at = begin; at < end; at += f.chunk, ++number)
      forward_chunk<V>(f,
                       {.t = at,
                        .q = std::min(f.chunk, end - at),
                        .number = number,
                        .segment = s,
                        .has_state = at > begin || f.initial,
                        .leaves_state = at + f.chunk < end || f.final_state},
                       piece, t);
    if (!f.final_state) continue;
    for (int64_t i = piece.begin; i < piece.end; ++i) {
      const Unit& u = f.plan.units[static_cast<size_t>(i)];
      save_state(f.final_state.at(s, u), f.final_state.channel,
                 t.S + (i - piece.begin) * e.channels * e.state_pitch, e, u.count);
    }
  }
}
void forward_avx2(const Forward& f, const Piece& piece, Tiles& t) {
  forward_piece<simd::F8>(f, piece, t);
}
NESTLING_TARGET_AVX512 void forward_avx512(const Forward& f, const Piece& piece, Tiles& t) {
  forward_piece<simd::F16>(f, piece, t);
}

}  // namespace

void run(Context& ctx, const ScanForward& a) {
  Plan plan = make_plan(a.x.dim(1), a.x.dim(2), a.B.dim(2), thread_count());
  const int64_t widest = (a.x.dim(2) + plan.slices - 1) / plan.slices;
  const Forward f{.e = make_extents(a.segments, a.chunk, widest, a.B.dim(1)),
                  .plan = std::move(plan),
                  .segments = &a.segments,
                  .chunk = a.chunk,
                  .x = source(a.x),
                  .dt_raw = source(a.dt_raw),
                  .B = source(a.B),
                  .C = source(a.C),
                  .A_log = a.A_log.ptr<float>(),
                  .D = a.D.ptr<float>(),
                  .dt_bias = a.dt_bias.ptr<float>(),
                  .y = target(a.y),
                  .chunk_states = states(a.chunk_states),
                  .final_state = states(a.final_state),
                  .initial = states(a.initial)};
  const Arena::Mark mark(ctx.scratch());
  const int64_t lanes = f.plan.lane_count();
  const int64_t per_lane = padded(tile_floats(f.e, f.plan.most_units));
  float* scratch = ctx.scratch().floats(lanes * per_lane);
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      Tiles tiles = make_tiles(scratch + l * per_lane, f.e, f.plan.most_units);
      for (int64_t i = f.plan.lanes[static_cast<size_t>(l)];
           i < f.plan.lanes[static_cast<size_t>(l) + 1]; ++i)
        body(f, f.plan.pieces[static_cast<size_t>(i)], tiles);
    }
  });
}

}  // namespace nestling::cpu
