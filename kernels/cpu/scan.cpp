// The chunked scan, forward. For each chunk and head, transposed so that nothing but y is
// rearranged:
//   Y^T [P, q] = (S C^T) diag(head) + X^T M^T,   M^T[j, i] = (B C^T)[j, i] e^{sum_i - sum_j} dt_j
//   S   [P, N] = whole S + (diag(dt tail) X)^T B
#include "kernels/ops/scan.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/cpu/scan_groups.h"

namespace nestling::cpu {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Forward {
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
  float* B;     // [groups, q, state_pitch]
  float* C;     // [groups, q, state_pitch]
  float* CT;    // [N, chunk_pitch] of one group, as all behind
  float* BC;    // [q, chunk_pitch] B C^T, columns i >= j
  float* M;     // [q, chunk_pitch] M^T
  float* X;     // [q, channel_pitch]
  float* Y;     // [P, chunk_pitch]
  float* rows;  // [q, channel_pitch] Y^T
  float* S;     // [units, P, state_pitch]
  Decays d;
};

// Lays the tiles out from `at` on; with at == nullptr this only measures. Returns the floats taken.
// Every tile that is transposed has whole squares.
int64_t lay_out(Tiles& t, float* at, const Plan& plan) {
  const Extents& e = plan.e;
  int64_t used = 0;
  const auto take = [&](int64_t n) {
    float* p = at == nullptr ? nullptr : at + used;
    used += n;
    return p;
  };
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  t.B = take(plan.most_groups * tile);
  t.C = take(plan.most_groups * tile);
  t.CT = take(tile);
  t.BC = take(e.chunk_pitch * e.chunk_pitch);
  t.M = take(e.chunk_pitch * e.chunk_pitch);
  t.X = take(e.chunk_pitch * e.channel_pitch);
  t.Y = take(e.channel_pitch * e.chunk_pitch);
  t.rows = take(e.chunk_pitch * e.channel_pitch);
  t.S = take(plan.most_units * e.channels * e.state_pitch);
  float* decays = take(kDecayRows * e.chunk_pitch);
  if (decays != nullptr) t.d = make_decays(decays, e.chunk_pitch);
  return padded(used);
}

// A chunk: tokens [t, t + q) of a segment; `number` counts over all segments.
struct Chunk {
  int64_t t, q, number, segment;
  bool has_state;     // there is a state before it
  bool leaves_state;  // somebody reads the state behind it
};

// What the heads of a group share.
template <class V>
NESTLING_INLINE void open_group(const Extents& e, const Chunk& c, const float* B, const float* C,
                                const Tiles& t) {
  transpose_tile<V>(t.CT, e.chunk_pitch, C, e.state_pitch, padded(c.q), e.state_pitch);
  const int64_t width = padded(c.q);
  for (int64_t j = 0; j < c.q; j += kBlock)
    product<V>({.m = std::min(kBlock, c.q - j),
                .n = width - j,
                .k = e.state,
                .a = B + j * e.state_pitch,
                .a_row = e.state_pitch,
                .a_col = 1,
                .b = t.CT + j,
                .ldb = e.chunk_pitch,
                .c = t.BC + j * e.chunk_pitch + j,
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
NESTLING_INLINE void write_y(const Forward& f, const Chunk& c, const Unit& u, const Tiles& t) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const Extents& e = f.plan.e;
  transpose_tile<V>(t.rows, e.channel_pitch, t.Y, e.chunk_pitch, padded(u.count), padded(c.q));
  float* y = f.y.data + c.t * f.y.token + u.head * f.y.other + u.first;
  const float skip = f.D[u.head];
  for (int64_t i = 0; i < c.q; ++i) {
    const float* x = t.X + i * e.channel_pitch;
    const float* from = t.rows + i * e.channel_pitch;
    float* row = y + i * f.y.token;
    int64_t p = 0;
    for (; p + kN <= u.count; p += kN)
      simd::store(row + p, simd::load<V>(from + p) + simd::load<V>(x + p) * skip);
    for (; p < u.count; ++p) row[p] = from[p] + x[p] * skip;
  }
}

template <class V>
NESTLING_INLINE void forward_y(const Forward& f, const Chunk& c, const Unit& u, const float* S,
                               const Tiles& t) {
  const Extents& e = f.plan.e;
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
                .ldc = e.chunk_pitch},
               rows_ahead(f.y, c.t, c.q, u));
    scale_columns<V>(t.Y, e.chunk_pitch, t.d.head, u.count, width);
  }
  for (int64_t j = 0; j < c.q; j += kBlock)
    product<V>({.m = u.count,
                .n = width - j,
                .k = std::min(kBlock, c.q - j),
                .a = t.X + j * e.channel_pitch,
                .a_row = 1,
                .a_col = e.channel_pitch,
                .b = t.M + j * e.chunk_pitch + j,
                .ldb = e.chunk_pitch,
                .c = t.Y + j,
                .ldc = e.chunk_pitch,
                .accumulate = c.has_state || j > 0});
  write_y<V>(f, c, u, t);
}

// S += (diag(dt tail) X)^T B, with S scaled by the chunk's decay already. Overwrites X.
template <class V>
NESTLING_INLINE void forward_state(const Extents& e, const Chunk& c, const Unit& u, const float* B,
                                   float* S, const Ahead& next, const Tiles& t) {
  scale_columns<V>(t.d.tail, 0, t.d.dt, 1, padded(c.q));
  scale_rows<V>(t.X, e.channel_pitch, t.d.tail, c.q);
  product<V>({.m = u.count,
              .n = e.state_pitch,
              .k = c.q,
              .a = t.X,
              .a_row = 1,
              .a_col = e.channel_pitch,
              .b = B,
              .ldb = e.state_pitch,
              .c = S,
              .ldc = e.state_pitch,
              .accumulate = c.has_state},
             next);
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
NESTLING_INLINE void forward_unit(const Forward& f, const Chunk& c, const Unit& u, const float* B,
                                  float* S, const Unit& next, Tiles& t) {
  const Extents& e = f.plan.e;
  fill_decays<V>(t.d, padded(c.q), f.dt_raw.data + c.t * f.dt_raw.token + u.head, f.dt_raw.token,
                 f.dt_bias[u.head], std::exp(static_cast<double>(f.A_log[u.head])), c.q);
  fill_m<V>(t, c.q, e.chunk_pitch);
  pack_rows<V>(t.X, e.channel_pitch, f.x.data + c.t * f.x.token + u.head * f.x.other + u.first,
               f.x.token, c.q, u.count);
  forward_y<V>(f, c, u, S, t);
  if (f.chunk_states)
    save_and_scale(f.chunk_states.at(c.number, u), f.chunk_states.channel, S, e, u.count,
                   t.d.whole);
  else if (c.leaves_state && c.has_state)
    scale_all<V>(S, t.d.whole, u.count * e.state_pitch);
  if (c.leaves_state) forward_state<V>(e, c, u, B, S, rows_ahead(f.x, c.t, c.q, next), t);
}

template <class V>
NESTLING_INLINE void forward_chunk(const Forward& f, const Chunk& c, const Bundle& b, Tiles& t) {
  const Extents& e = f.plan.e;
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  const GroupTiles B{t.B, tile, e.state_pitch, b.first_group, b.groups};
  const GroupTiles C{t.C, tile, e.state_pitch, b.first_group, b.groups};
  gather_groups<V>(B, f.B, c.t, c.q, e.state);
  gather_groups<V>(C, f.C, c.t, c.q, e.state);
  clear_behind(C, c.q);
  for (int64_t i = 0; i < b.groups; ++i) {
    const Piece& piece = f.plan.pieces[static_cast<size_t>(b.begin + i)];
    open_group<V>(e, c, t.B + i * tile, t.C + i * tile, t);
    for (int64_t k = piece.begin; k < piece.end; ++k)
      forward_unit<V>(f, c, f.plan.units[static_cast<size_t>(k)], t.B + i * tile,
                      t.S + (k - b.first_unit) * e.channels * e.state_pitch, f.plan.after(k, b), t);
  }
}

template <class V>
NESTLING_INLINE void forward_bundle(const Forward& f, const Bundle& b, Tiles& t) {
  const Extents& e = f.plan.e;
  int64_t number = 0;
  for (int64_t s = 0; s < f.segments->count(); ++s) {
    for (int64_t i = 0; i < b.units; ++i) {
      const Unit& u = f.plan.units[static_cast<size_t>(b.first_unit + i)];
      load_state(t.S + i * e.channels * e.state_pitch, f.initial ? f.initial.at(s, u) : nullptr,
                 f.initial.channel, e, u.count);
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
                       b, t);
    if (!f.final_state) continue;
    for (int64_t i = 0; i < b.units; ++i) {
      const Unit& u = f.plan.units[static_cast<size_t>(b.first_unit + i)];
      save_state(f.final_state.at(s, u), f.final_state.channel,
                 t.S + i * e.channels * e.state_pitch, e, u.count);
    }
  }
}
void forward_avx2(const Forward& f, const Bundle& b, Tiles& t) {
  forward_bundle<simd::F8>(f, b, t);
}
NESTLING_TARGET_AVX512 void forward_avx512(const Forward& f, const Bundle& b, Tiles& t) {
  forward_bundle<simd::F16>(f, b, t);
}

}  // namespace

void run(Context& ctx, const ScanForward& a) {
  const Forward f{.plan = make_plan(a.segments, a.chunk, shape_of(a.x, a.B), thread_count()),
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
  Tiles measure{};
  const int64_t per_lane = lay_out(measure, nullptr, f.plan);
  float* scratch = ctx.scratch().floats(lanes * per_lane);
  if (ctx.device() == Device::kNull) return;  // the scratch is taken, nothing is computed
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      Tiles tiles{};
      lay_out(tiles, scratch + l * per_lane, f.plan);
      for (int64_t i = f.plan.lanes[static_cast<size_t>(l)];
           i < f.plan.lanes[static_cast<size_t>(l) + 1]; ++i)
        body(f, f.plan.bundles[static_cast<size_t>(i)], tiles);
    }
  });
}

}  // namespace nestling::cpu
