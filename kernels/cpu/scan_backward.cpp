// The chunked scan, backward: the walk over chunks, and what a group's heads share.
#include <algorithm>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/cpu/scan_backward_unit.h"
#include "kernels/ops/scan.h"

namespace nestling::cpu {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own helpers

// The group's share: dC += dG B, dB += dG^T C.
template <class V>
NESTLING_INLINE void close_group(const Backward& b, const Chunk& c, const Tiles& t) {
  const Extents& e = b.e;
  for (int64_t i = 0; i < c.q; i += kBlock) {
    const int64_t rows = std::min(kBlock, c.q - i);
    product<V>({.m = rows,
                .n = e.state_pitch,
                .k = i + rows,
                .a = t.dG + i * e.chunk_pitch,
                .a_row = e.chunk_pitch,
                .a_col = 1,
                .b = t.B,
                .ldb = e.state_pitch,
                .c = t.dC + i * e.state_pitch,
                .ldc = e.state_pitch,
                .accumulate = true});
    product<V>({.m = rows,
                .n = e.state_pitch,
                .k = c.q - i,
                .a = t.dG + i * e.chunk_pitch + i,
                .a_row = 1,
                .a_col = e.chunk_pitch,
                .b = t.C + i * e.state_pitch,
                .ldb = e.state_pitch,
                .c = t.dB + i * e.state_pitch,
                .ldc = e.state_pitch,
                .accumulate = true});
  }
}

// Where a piece's dB (which = 0) or dC (1) goes: the operand, or a buffer [T, N] of its own.
Target group_target(const Backward& b, int64_t piece, int64_t which) {
  const Piece& p = b.plan.pieces[static_cast<size_t>(piece)];
  if (p.buffer < 0) {
    const Target& to = which == 0 ? b.dB : b.dC;
    return {to.data + p.group, to.token, to.other};
  }
  return {b.shared + (p.buffer * 2 + which) * b.tokens * b.e.state, b.e.state, 1};
}

void store_group(const Target& to, const Chunk& c, const float* tile, const Extents& e) {
  for (int64_t j = 0; j < c.q; ++j)
    for (int64_t n = 0; n < e.state; ++n)
      to.data[(c.t + j) * to.token + n * to.other] = tile[j * e.state_pitch + n];
}

template <class V>
NESTLING_INLINE void backward_piece(const Backward& b, int64_t number, Tiles& t) {
  const Extents& e = b.e;
  const Piece& piece = b.plan.pieces[static_cast<size_t>(number)];
  const Target dB = group_target(b, number, 0);
  const Target dC = group_target(b, number, 1);
  for (int64_t i = piece.begin; i < piece.end; ++i) b.sums[i] = {};
  for (int64_t s = 0; s < b.segments->count(); ++s) {
    const int64_t length = b.segments->length(s);
    const int64_t chunks = (length + b.chunk - 1) / b.chunk;
    for (int64_t k = chunks - 1; k >= 0; --k) {
      const Chunk c{.t = b.segments->begin(s) + k * b.chunk,
                    .q = std::min(b.chunk, length - k * b.chunk),
                    .number = b.first_chunk[static_cast<size_t>(s)] + k,
                    .first = k == 0,
                    .last = k == chunks - 1};
      load_group<V>(b, c, piece.group, t);
      for (int64_t i = piece.begin; i < piece.end; ++i)
        backward_unit<V>(b, c, i, t.dS + (i - piece.begin) * e.channels * e.state_pitch, t);
      close_group<V>(b, c, t);
      store_group(dB, c, t.dB, e);
      store_group(dC, c, t.dC, e);
    }
  }
}
void backward_avx2(const Backward& b, int64_t piece, Tiles& t) {
  backward_piece<simd::F8>(b, piece, t);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, int64_t piece, Tiles& t) {
  backward_piece<simd::F16>(b, piece, t);
}

// Adds the buffers of pieces that share a group, in the order of their units.
void sum_shared(const Backward& b) {
  const auto pieces = static_cast<int64_t>(b.plan.pieces.size());
  for (int64_t first = 0; first < pieces;) {
    const Piece& piece = b.plan.pieces[static_cast<size_t>(first)];
    int64_t end = first + 1;
    while (end < pieces && b.plan.pieces[static_cast<size_t>(end)].group == piece.group) ++end;
    if (piece.buffer >= 0)
      parallel_for(b.tokens, 64, [&](int64_t from, int64_t to) {
        for (int64_t which = 0; which < 2; ++which) {
          const Target& out = which == 0 ? b.dB : b.dC;
          for (int64_t t = from; t < to; ++t)
            for (int64_t n = 0; n < b.e.state; ++n) {
              float sum = 0;
              for (int64_t i = first; i < end; ++i)
                sum += group_target(b, i, which).data[t * b.e.state + n];
              out.data[t * out.token + n * out.other + piece.group] = sum;
            }
        }
      });
    first = end;
  }
}

// The slices of a head are summed in order.
void sum_units(const Backward& b, const ScanBackward& a) {
  const auto units = static_cast<int64_t>(b.plan.units.size());
  const int64_t pitch = a.ddt_raw.stride(0);
  for (int64_t i = 0; i < units; i += b.plan.slices) {
    const int64_t h = b.plan.units[static_cast<size_t>(i)].head;
    UnitSums sum{};
    for (int64_t s = i; s < i + b.plan.slices; ++s) {
      sum.dA_log += b.sums[s].dA_log;
      sum.dD += b.sums[s].dD;
      sum.ddt_bias += b.sums[s].ddt_bias;
    }
    a.dA_log.ptr<float>()[h] += static_cast<float>(sum.dA_log);
    a.dD.ptr<float>()[h] += static_cast<float>(sum.dD);
    a.ddt_bias.ptr<float>()[h] += static_cast<float>(sum.ddt_bias);
  }
  parallel_for(b.tokens, 64, [&](int64_t from, int64_t to) {
    for (int64_t i = 0; i < units; i += b.plan.slices) {
      float* out = a.ddt_raw.ptr<float>() + b.plan.units[static_cast<size_t>(i)].head;
      for (int64_t t = from; t < to; ++t) {
        float sum = 0;
        for (int64_t s = i; s < i + b.plan.slices; ++s) sum += b.ddt[s * b.tokens + t];
        out[t * pitch] = sum;
      }
    }
  });
}

Backward make_backward(Arena& scratch, const ScanBackward& a) {
  Plan plan = make_plan(a.x.dim(1), a.x.dim(2), a.B.dim(2), thread_count());
  const int64_t widest = (a.x.dim(2) + plan.slices - 1) / plan.slices;
  Backward b{.e = make_extents(a.segments, a.chunk, widest, a.B.dim(1)),
             .plan = std::move(plan),
             .segments = &a.segments,
             .chunk = a.chunk,
             .tokens = a.x.dim(0),
             .x = source(a.x),
             .dy = source(a.dy),
             .dt_raw = source(a.dt_raw),
             .B = source(a.B),
             .C = source(a.C),
             .A_log = a.A_log.ptr<float>(),
             .D = a.D.ptr<float>(),
             .dt_bias = a.dt_bias.ptr<float>(),
             .chunk_states = states(a.chunk_states),
             .dx = target(a.dx),
             .ddt = nullptr,
             .sums = nullptr,
             .dB = target(a.dB),
             .dC = target(a.dC),
             .shared = nullptr,
             .first_chunk = {}};
  const auto units = static_cast<int64_t>(b.plan.units.size());
  b.ddt = scratch.floats(units * b.tokens);
  b.sums = reinterpret_cast<UnitSums*>(scratch.alloc(DType::kF64, {units * 3}).data());
  b.shared = scratch.floats(b.plan.buffers * 2 * b.tokens * b.e.state);
  int64_t chunks = 0;
  for (int64_t s = 0; s < a.segments.count(); ++s) {
    b.first_chunk.push_back(chunks);
    chunks += (a.segments.length(s) + a.chunk - 1) / a.chunk;
  }
  return b;
}

}  // namespace

void run(Context& ctx, const ScanBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Backward b = make_backward(ctx.scratch(), a);
  const int64_t lanes = b.plan.lane_count();
  Tiles measure{};
  const int64_t per_lane = lay_out(measure, nullptr, b.e, b.plan.most_units);
  float* scratch = ctx.scratch().floats(lanes * per_lane);
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      Tiles tiles{};
      lay_out(tiles, scratch + l * per_lane, b.e, b.plan.most_units);
      for (int64_t i = b.plan.lanes[static_cast<size_t>(l)];
           i < b.plan.lanes[static_cast<size_t>(l) + 1]; ++i)
        body(b, i, tiles);
    }
  });
  sum_shared(b);
  sum_units(b, a);
}

}  // namespace nestling::cpu
