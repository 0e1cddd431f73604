// scan.cu - the Mamba-2 scan in its chunked (state space dual) form, forward: Dao and Gu 2024, section 6.
//   1. decays; B and C laid out by group; C B^T of all causal pairs of 64-token tiles of a chunk
//   2. what every chunk adds to the state, by itself (chunk_sums)
//   3. along each segment: the state before every chunk (chain)
//   4. y from the state before and the pairs (outputs)
// Products within a tile are on tensor cores for bf16 operands and f32 FMAs for f32 ones; states and
// decays are f32.
//
// Scratch       T/64 (chunk/64 + 1)/2 tiles of 16 KB a group for C B^T, copies of B and C, 12 bytes a
//               token and head; and the chunk states where they are no operand.
// Work          T = 8192, 64 heads x 64, 8 groups, state 128, chunk 128, bf16: C B^T 1.6 GFLOP, its
//               product with x 6.4, two products with states 17.2: 25 GFLOP (diagonal tiles whole),
//               0.03 ms at 990 TFLOP/s. Operands: x and y 134 MB, B and C 34, chunk states 134:
//               0.30 GB, 0.09 ms at 3.35 TB/s. As passed over: x twice and y 201 MB, states four
//               times 537, B, C and their copies 136, C B^T twice 50, decays 20: 0.94 GB, 0.28 ms.
//               Chunk 256 has 268 MB less of states and 34 MB more of C B^T: 0.21 ms.
// f32           against the recurrence run token by token, 5 FMAs a token and element of the state, this
//               takes 3 at chunk 128 (2 for states, 0.75 for pairs, the rest for C B^T), and every tile
//               of tokens has a block of its own.
#include "kernels/cuda/scan_passes.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own passes

template <class E>
void forward(Context& ctx, const ScanForward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Plan p = make_plan(ctx, a.segments, a.chunk, Cut::kChunks, a.x, a.B,
                           {a.dt_raw, a.A_log, a.dt_bias});
  const Sizes& s = p.s;
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  const float* products = pair_products(ctx, p, C, B);
  const View saved =
      a.chunk_states
          ? a.chunk_states
          : ctx.scratch().alloc(DType::kF32, {p.chunk_count, s.heads, s.channels, s.states});
  const StateView states = state_view(saved);
  const HeadRows<const E> x = head_rows<E>(a.x);
  chunk_sums(ctx, p, Direction::kForward, x, B, states);
  chain_states(ctx, p, states, state_view(a.initial), state_view(a.final_state));
  outputs(ctx, p, Direction::kForward,
          Outputs<E>{.out = head_rows<E>(a.y),
                     .in = x,
                     .x = x,
                     .u = C,
                     .states = states,
                     .initial = static_cast<bool>(a.initial),
                     .products = products,
                     .D = a.D.ptr<float>(),
                     .dD_parts = nullptr});
}

}  // namespace

void run(Context& ctx, const ScanForward& a) {
  if (a.x.dtype() == DType::kBF16)
    forward<__nv_bfloat16>(ctx, a);
  else
    forward<float>(ctx, a);
}

}  // namespace nestling::cuda
