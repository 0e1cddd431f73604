// The chunked scan, backward: the walk over chunks, and what a group's heads share.
#include <algorithm>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/cpu/scan_backward_unit.h"
#include "kernels/ops/scan.h"

namespace nestling::cpu {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own helpers

// The group's share: dC += dG B, dB += dG^T C. Both then take the places of B and C.
template <class V>
NESTLING_INLINE void close_group(const Extents& e, const Chunk& c, const Tiles& t) {
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
  std::copy_n(t.dB, c.q * e.state_pitch, t.B);
  std::copy_n(t.dC, c.q * e.state_pitch, t.C);
}

// dB (which = 0) or dC (1) of a piece that shares its group, [T, N].
Target own_buffer(const Backward& b, const Piece& p, int64_t which) {
  return {b.shared + (p.buffer * 2 + which) * b.tokens * b.plan.e.state, b.plan.e.state, 1};
}

// From the bundle's tiles to the operand, or to buffers of their own.
template <class V>
NESTLING_INLINE void store_groups(const Backward& b, const Chunk& c, const Bundle& bundle,
                                  int64_t which, float* tiles) {
  const Extents& e = b.plan.e;
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  const auto shares = [&](int64_t i) {
    return b.plan.pieces[static_cast<size_t>(bundle.begin + i)].buffer >= 0;
  };
  for (int64_t i = 0; i < bundle.groups;) {
    int64_t end = i + 1;
    const bool alone = shares(i);
    while (!alone && end < bundle.groups && !shares(end)) ++end;
    const GroupTiles from{tiles + i * tile, tile, e.state_pitch, alone ? 0 : bundle.first_group + i,
                          end - i};
    const Target to =
        alone ? own_buffer(b, b.plan.pieces[static_cast<size_t>(bundle.begin + i)], which)
              : (which == 0 ? b.dB : b.dC);
    scatter_groups<V>(from, to, c.t, c.q, e.state);
    i = end;
  }
}

template <class V>
NESTLING_INLINE void backward_chunk(const Backward& b, const Chunk& c, const Bundle& bundle,
                                    Tiles& t) {
  const Extents& e = b.plan.e;
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  const GroupTiles B{t.groups_B, tile, e.state_pitch, bundle.first_group, bundle.groups};
  const GroupTiles C{t.groups_C, tile, e.state_pitch, bundle.first_group, bundle.groups};
  gather_groups<V>(B, b.B, c.t, c.q, e.state);
  gather_groups<V>(C, b.C, c.t, c.q, e.state);
  clear_behind(B, c.q);
  for (int64_t i = 0; i < bundle.groups; ++i) {
    const Piece& piece = b.plan.pieces[static_cast<size_t>(bundle.begin + i)];
    t.B = t.groups_B + i * tile;
    t.C = t.groups_C + i * tile;
    open_group<V>(e, c, t);
    for (int64_t k = piece.begin; k < piece.end; ++k)
      backward_unit<V>(b, c, k, t.dS + (k - bundle.first_unit) * e.channels * e.state_pitch,
                       b.plan.after(k, bundle), t);
    close_group<V>(e, c, t);
  }
  store_groups<V>(b, c, bundle, 0, t.groups_B);
  store_groups<V>(b, c, bundle, 1, t.groups_C);
}

template <class V>
NESTLING_INLINE void backward_bundle(const Backward& b, const Bundle& bundle, Tiles& t) {
  std::fill_n(b.sums + bundle.first_unit, bundle.units, UnitSums{});
  for (int64_t s = 0; s < b.segments->count(); ++s) {
    const int64_t length = b.segments->length(s);
    const int64_t chunks = (length + b.chunk - 1) / b.chunk;
    for (int64_t k = chunks - 1; k >= 0; --k)
      backward_chunk<V>(b,
                        {.t = b.segments->begin(s) + k * b.chunk,
                         .q = std::min(b.chunk, length - k * b.chunk),
                         .number = b.first_chunk[static_cast<size_t>(s)] + k,
                         .first = k == 0,
                         .last = k == chunks - 1},
                        bundle, t);
  }
}
void backward_avx2(const Backward& b, const Bundle& bundle, Tiles& t) {
  backward_bundle<simd::F8>(b, bundle, t);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, const Bundle& bundle, Tiles& t) {
  backward_bundle<simd::F16>(b, bundle, t);
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
            for (int64_t n = 0; n < b.plan.e.state; ++n) {
              float sum = 0;
              for (int64_t i = first; i < end; ++i)
                sum += own_buffer(b, b.plan.pieces[static_cast<size_t>(i)], which)
                           .data[t * b.plan.e.state + n];
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
  Backward b{.plan = make_plan(a.segments, a.chunk, shape_of(a.x, a.B), thread_count()),
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
  b.shared = scratch.floats(b.plan.buffers * 2 * b.tokens * b.plan.e.state);
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
  const int64_t per_lane = lay_out(measure, nullptr, b.plan);
  float* scratch = ctx.scratch().floats(lanes * per_lane);
  if (ctx.device() == Device::kNull) return;  // the scratch is taken, nothing is computed
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      Tiles tiles{};
      lay_out(tiles, scratch + l * per_lane, b.plan);
      for (int64_t i = b.plan.lanes[static_cast<size_t>(l)];
           i < b.plan.lanes[static_cast<size_t>(l) + 1]; ++i)
        body(b, b.plan.bundles[static_cast<size_t>(i)], tiles);
    }
  });
  sum_shared(b);
  sum_units(b, a);
}

}  // namespace nestling::cpu
