// scan_backward.cu - the chunked scan, backward.
//   1. the decays, the copies of B and C and C B^T again
// bf16, up to 64 channels and 128 states of a head (scan_walk.h):
//   2. a walk from the end that leaves the gradient dS of the state after every tile (scan_walk_states.cu)
//   3. of every tile, all that depends on it: dx, dB, dC and what ddt is made of (scan_walk_gradients.cu)
// f32, and wider heads:
//   2. what every chunk gives to the gradient of the state before it; in reverse along each segment, the
//      gradient dS after every chunk, and <S, dS>
//   3. of every pair of tiles: dy x^T, from it the gradient of C B^T and the sums of K
//   4. dx and parts of dD; dC and dB
// Both at last: dB and dC laid out, ddt_raw and the parameters.
//
// Scratch       as forward's; dS, 16 KB a tile and head (in the chunked form as large as the chunk states);
//               dB and dC by group. In the chunked form these in f32, the gradient of C B^T by pairs, and
//               1 KB a pair and two heads for the sums of K.
// Determinism   every sum has one order: heads of a group in theirs, parts in scratch added by index.
// Work          T = 8192, 64 heads x 64, 8 groups, state 128, chunk 128, bf16: 52 GFLOP by products over
//               chunks; as done, C B^T and dB, dC from its gradient 3.2 GFLOP, dy x^T and dx 8.6, four
//               products with states 34.4, the states within chunks 4.3. Operands: x, dy, dx 201 MB,
//               B, C, dB, dC 67, chunk states 134: 0.40 GB. As passed over: dy twice, x, dx 268, S 134,
//               dS twice 268, B, C, dB, dC and their copies 219, C B^T 34, the rest 50: 0.97 GB, 0.32 ms
//               (projected) at 3.0 TB/s. What tiles of a chunk both read comes from L2.
#include "kernels/cuda/scan_gradients.h"
#include "kernels/cuda/scan_walk.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own passes

template <class E>
void backward(Context& ctx, const ScanBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Plan p =
      make_plan(ctx, a.segments, a.chunk, Cut::kChunks, a.x, a.B, {a.dt_raw, a.A_log, a.dt_bias});
  const Sizes& s = p.s;
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  const float* products = pair_products(ctx, p, C, B);
  const TokenHeads<const E> x = token_heads<E>(a.x);
  const TokenHeads<const E> dy = token_heads<E>(a.dy);
  const StateView states = state_view(a.chunk_states);
  const StateView dS =
      state_view(ctx.scratch().alloc(DType::kF32, {p.chunk_count, s.heads, s.channels, s.states}));
  chunk_sums(ctx, p, Direction::kBackward, dy, C, dS);
  const ChainParts chain = chain_gradients(ctx, p, dS, states);

  const PairGradients<E> pairs = pair_gradients(ctx, p, dy, x, products);
  float* dD_parts = ctx.scratch().floats(s.channel_tiles * p.tile_count * s.heads);
  outputs(ctx, p, Direction::kBackward,
          Outputs<E>{.out = token_heads<E>(a.dx),
                     .in = dy,
                     .x = x,
                     .u = B,
                     .states = dS,
                     .initial = false,
                     .products = products,
                     .D = a.D.ptr<float>(),
                     .dD_parts = dD_parts});
  const GroupGradients dC =
      group_gradients(ctx, p, Direction::kForward, dy, states, C, B, pairs.products);
  const GroupGradients dB =
      group_gradients(ctx, p, Direction::kBackward, x, dS, B, C, pairs.products);
  from_groups<E>(ctx, p, a.dC, dC.rows);
  from_groups<E>(ctx, p, a.dB, dB.rows);
  scalar_gradients(ctx, p,
                   {.rows = pairs.rows,
                    .cols = pairs.cols,
                    .diagonal = pairs.diagonal,
                    .dC_dots = dC.dots,
                    .dB_dots = dB.dots,
                    .chain = chain,
                    .dD_parts = dD_parts,
                    .dt_raw = a.dt_raw,
                    .A_log = a.A_log,
                    .dt_bias = a.dt_bias,
                    .ddt_raw = a.ddt_raw,
                    .dA_log = a.dA_log,
                    .dD = a.dD,
                    .ddt_bias = a.ddt_bias});
}

float* floats_of(Context& ctx, const Plan& p, int64_t each) {
  return ctx.scratch().floats(p.tile_count * p.s.heads * each);
}

// bf16 and heads that fit a block: the gradients of states in one walk, all others in one pass.
void walk(Context& ctx, const ScanBackward& a) {
  using E = __nv_bfloat16;
  const Arena::Mark mark(ctx.scratch());
  const Plan p =
      make_plan(ctx, a.segments, a.chunk, Cut::kSegments, a.x, a.B, {a.dt_raw, a.A_log, a.dt_bias});
  const Sizes& s = p.s;
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  const auto rows = [&] {
    return bf16_of(ctx.scratch().alloc(DType::kBF16, {s.groups, s.tokens, s.padded_states}));
  };
  const auto dots = [&] { return ctx.scratch().floats(s.state_tiles * s.heads * s.tokens); };
  const TokenHeads<const E> dy = token_heads<E>(a.dy);
  const TileGradients g{.dx = token_heads<E>(a.dx),
                        .dy = dy,
                        .x = token_heads<E>(a.x),
                        .B = B,
                        .C = C,
                        .products = pair_products(ctx, p, C, B),
                        .D = a.D.ptr<float>(),
                        .states = state_view(a.chunk_states),
                        .dstates_after = dstates_after(ctx, p, dy, C),
                        .dB = rows(),
                        .dC = rows(),
                        .rows = floats_of(ctx, p, kTileTokens),
                        .cols = floats_of(ctx, p, kTileTokens),
                        .diagonal = ctx.scratch().floats(s.heads * s.tokens),
                        .dC_dots = dots(),
                        .dB_dots = dots(),
                        .chain = floats_of(ctx, p, 1),
                        .dD_parts = floats_of(ctx, p, 1)};
  tile_gradients(ctx, p, g);
  from_groups<E>(ctx, p, a.dB, g.dB);
  from_groups<E>(ctx, p, a.dC, g.dC);
  scalar_gradients(ctx, p,
                   {.rows = g.rows,
                    .cols = g.cols,
                    .diagonal = g.diagonal,
                    .dC_dots = g.dC_dots,
                    .dB_dots = g.dB_dots,
                    .chain = {g.chain, 1},
                    .dD_parts = g.dD_parts,
                    .dt_raw = a.dt_raw,
                    .A_log = a.A_log,
                    .dt_bias = a.dt_bias,
                    .ddt_raw = a.ddt_raw,
                    .dA_log = a.dA_log,
                    .dD = a.dD,
                    .ddt_bias = a.ddt_bias});
}

}  // namespace

void run(Context& ctx, const ScanBackward& a) {
  if (walks(ctx, a.x, a.B))
    walk(ctx, a);
  else if (a.x.dtype() == DType::kBF16)
    backward<__nv_bfloat16>(ctx, a);
  else
    backward<float>(ctx, a);
}

}  // namespace nestling::cuda
