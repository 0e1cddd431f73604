// scan.cu - the Mamba-2 scan in its chunked (state space dual) form, forward: Dao and Gu 2024, section 6.
//   1. decays; B and C laid out by group; C B^T of causal pairs of tiles of 64 tokens
// bf16, up to 64 channels and 128 states of a head (scan_walk.h):
//   2. what every run of tiles adds to the state, where a segment is walked in several
//   3. a walk along the tiles that leaves y and the states before the chunks (scan_walk_forward.cu)
// f32, and wider heads:
//   2. what every chunk adds to the state, by itself (chunk_sums)
//   3. along each segment: the state before every chunk (chain)
//   4. y from the state before and the pairs (outputs)
// Products within a tile are on tensor cores for bf16 operands and f32 FMAs for f32 ones; states and
// decays are f32.
//
// Scratch       copies of B and C, 12 bytes a token and head, C B^T: 16 KB a group for each tile, in the
//               chunked form for each of (chunk/64 + 1)/2 pairs a tile; 32 KB a run and head. In the
//               chunked form the chunk states where they are no operand.
// Work          T = 8192, 64 heads x 64, 8 groups, state 128, chunk 128, bf16: 25 GFLOP by products over
//               chunks; as walked, C B^T 1.1 GFLOP, its product with x 4.3, three with states 23. Operands:
//               x and y 134 MB, B and C 34, chunk states 134: 0.30 GB. As passed over: x and y 134,
//               x and B of the runs 63, B, C and their copies 101, chunk states 134, C B^T 34, decays and
//               the states of runs 32: 0.50 GB, 0.17 ms (projected) at 3.0 TB/s. What the heads of a group
//               read of its B, C and C B^T after the first comes from L2.
// f32           against the recurrence run token by token, 5 FMAs a token and element of the state, this
//               takes 3 at chunk 128 (2 for states, 0.75 for pairs, the rest for C B^T), and every tile
//               of tokens has a block of its own.
#include "kernels/cuda/scan_walk.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own passes

template <class E>
void forward(Context& ctx, const ScanForward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Plan p =
      make_plan(ctx, a.segments, a.chunk, Cut::kChunks, a.x, a.B, {a.dt_raw, a.A_log, a.dt_bias});
  const Sizes& s = p.s;
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  const float* products = pair_products(ctx, p, C, B);
  const View saved =
      a.chunk_states
          ? a.chunk_states
          : ctx.scratch().alloc(DType::kF32, {p.chunk_count, s.heads, s.channels, s.states});
  const StateView states = state_view(saved);
  const TokenHeads<const E> x = token_heads<E>(a.x);
  chunk_sums(ctx, p, Direction::kForward, x, B, states);
  chain_states(ctx, p, states, state_view(a.initial), state_view(a.final_state));
  outputs(ctx, p, Direction::kForward,
          Outputs<E>{.out = token_heads<E>(a.y),
                     .in = x,
                     .x = x,
                     .u = C,
                     .states = states,
                     .initial = static_cast<bool>(a.initial),
                     .products = products,
                     .D = a.D.ptr<float>(),
                     .dD_parts = nullptr});
}

// bf16 and heads that fit a block: all in one walk.
void walk(Context& ctx, const ScanForward& a) {
  using E = __nv_bfloat16;
  const Arena::Mark mark(ctx.scratch());
  const Plan p =
      make_plan(ctx, a.segments, a.chunk, Cut::kRuns, a.x, a.B, {a.dt_raw, a.A_log, a.dt_bias});
  const TokenHeads<const E> x = token_heads<E>(a.x);
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  walk_forward(ctx, p,
               {.y = token_heads<E>(a.y),
                .x = x,
                .B = B,
                .C = C,
                .products = pair_products(ctx, p, C, B),
                .D = a.D.ptr<float>(),
                .initial = state_view(a.initial),
                .chunk_states = state_view(a.chunk_states),
                .final_state = state_view(a.final_state),
                .sums = run_sums(ctx, p, x, B)});
}

}  // namespace

void run(Context& ctx, const ScanForward& a) {
  if (walks(ctx, a.x, a.B))
    walk(ctx, a);
  else if (a.x.dtype() == DType::kBF16)
    forward<__nv_bfloat16>(ctx, a);
  else
    forward<float>(ctx, a);
}

}  // namespace nestling::cuda
