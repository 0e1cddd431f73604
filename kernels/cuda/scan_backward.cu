// scan_backward.cu - the chunked scan, backward.
//   1. the decays, the copies of B and C and C B^T again
//   2. what every chunk gives to the gradient of the state before it; in reverse along each segment, the
//      gradient dS behind every chunk, and <S, dS>
//   3. of every pair of tiles: dy x^T, from it the gradient of C B^T and the sums of K
//   4. dx and parts of dD; dC and dB; ddt_raw and the parameters
//
// Scratch       as forward's, dS as large as the chunk states, dB and dC in f32 and the gradient of C B^T
//               by pairs; 1 KB a pair and two heads for the sums of K.
// Determinism   every sum has one order: heads of a group in theirs, parts in scratch added by index.
// Work          T = 8192, 64 heads x 64, 8 groups, state 128, chunk 128, bf16: C B^T and dB, dC from
//               its gradient 4.8 GFLOP, dy x^T and dx 12.9, four products with states 34.4: 52 GFLOP,
//               0.05 ms at 990 TFLOP/s. Operands: x, dy, dx 201 MB, B, C, dB, dC 67, chunk states
//               134: 0.40 GB, 0.12 ms at 3.35 TB/s. As passed over: dy four times, x three and dx
//               536 MB, S twice and dS five times 939, C B^T and its gradient 113, B, C, dB, dC and
//               their copies 372, the rest 32: 2.0 GB, 0.59 ms. What a pass reads again within a
//               chunk (dy and x of pairs, states of its tiles) comes from L2.
#include "kernels/cuda/scan_gradients.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own passes

template <class E>
void backward(Context& ctx, const ScanBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Plan p = make_plan(ctx, a.segments, a.chunk, Cut::kChunks, a.x, a.B,
                           {a.dt_raw, a.A_log, a.dt_bias});
  const Sizes& s = p.s;
  const E* B = to_groups<E>(ctx, p, a.B);
  const E* C = to_groups<E>(ctx, p, a.C);
  const float* products = pair_products(ctx, p, C, B);
  const HeadRows<const E> x = head_rows<E>(a.x);
  const HeadRows<const E> dy = head_rows<E>(a.dy);
  const StateView states = state_view(a.chunk_states);
  const StateView dS =
      state_view(ctx.scratch().alloc(DType::kF32, {p.chunk_count, s.heads, s.channels, s.states}));
  chunk_sums(ctx, p, Direction::kBackward, dy, C, dS);
  const ChainParts chain = chain_gradients(ctx, p, dS, states);

  const PairGradients<E> pairs = pair_gradients(ctx, p, dy, x, products);
  float* dD_parts = ctx.scratch().floats(s.channel_tiles * p.tile_count * s.heads);
  outputs(ctx, p, Direction::kBackward,
          Outputs<E>{.out = head_rows<E>(a.dx),
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
                    .before = dC.dots,
                    .behind = dB.dots,
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

}  // namespace

void run(Context& ctx, const ScanBackward& a) {
  if (a.x.dtype() == DType::kBF16)
    backward<__nv_bfloat16>(ctx, a);
  else
    backward<float>(ctx, a);
}

}  // namespace nestling::cuda
