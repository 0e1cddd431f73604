// experts.h - tokens to experts and back, and the grouped products in between. No capacity, no
// drops: every expert takes as many rows as it was given, including none.
//
// Shapes        x, y [T, D]   rows [R, .] with R = T*k, sorted by expert, stable in token order
//               index [T, k] i32   offsets [E+1] i32 (expert e owns rows [offsets[e],
//               offsets[e+1])) order [R] i32 (row r came from pair order[r] = t*k + j)   w [E, N,
//               K]
// Dtypes        as in linear.h: w f32 or bf16, dw f32. Off the CPU the rows of experts, what they are gathered
//               from, and their gradients may be bf16, beside bf16 w; a token's sums stay f32: combine's y, dy
//               and weights, and gather's dx.
// Elasticity    E, N and K come from the views: w.prefix(0, experts).prefix(1, n).prefix(2, k).
// Errors        an index outside the experts throws, naming it (CPU), or its token when the Context is
//               synchronized (CUDA).
// Limits        CUDA: 1024 experts.
// Determinism   combine adds a token's experts in the order j = 0..k-1: same inputs, same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

// Sorts the pairs by expert. `index` must lie in [0, E).
struct ExpertSort {
  View offsets;     // [E+1] i32 overwritten
  View order;       // [R]   i32 overwritten
  ConstView index;  // [T, k] i32
};
// rows[r] = x[order[r] / k]
struct ExpertGather {
  View rows;        // [R, D] overwritten
  ConstView x;      // [T, D]
  ConstView order;  // [R]
};
// y[t] (+)= sum_j weight[t, j] rows[position of pair (t, j)]
struct ExpertCombine {
  View y;            // [T, D] overwritten, unless accumulate
  ConstView rows;    // [R, D]
  ConstView weight;  // [T, k]
  ConstView order;   // [R]
  bool accumulate = false;
};
struct ExpertCombineBackward {
  View drows;    // [R, D] overwritten: weight * dy; may be rows
  View dweight;  // [T, k] overwritten: dy . rows
  ConstView dy;  // [T, D]
  ConstView rows, weight, order;
};
// The gather's gradient: dx[t] (+)= sum over its k rows.
struct ExpertGatherBackward {
  View dx;          // [T, D] overwritten, unless accumulate
  ConstView drows;  // [R, D]
  ConstView order;  // [R]
  bool accumulate = false;
};
// y[rows of e] = x[rows of e] w[e]^T
struct ExpertLinearForward {
  View y;             // [R, N] overwritten
  ConstView x;        // [R, K]
  ConstView w;        // [E, N, K]
  ConstView offsets;  // [E+1]
};
struct ExpertLinearBackward {
  View dx;       // [R, K] overwritten
  View dw = {};  // [E, N, K] accumulated, unless told otherwise
  ConstView dy;  // [R, N]
  ConstView x, w, offsets;
  bool accumulate_dw =
      true;  // false: overwritten, whatever it held; zero where an expert has no rows
};

void expert_sort(Context& ctx, const ExpertSort& a);
void expert_gather(Context& ctx, const ExpertGather& a);
void expert_combine(Context& ctx, const ExpertCombine& a);
void expert_combine_backward(Context& ctx, const ExpertCombineBackward& a);
void expert_gather_backward(Context& ctx, const ExpertGatherBackward& a);
void expert_linear_forward(Context& ctx, const ExpertLinearForward& a);
void expert_linear_backward(Context& ctx, const ExpertLinearBackward& a);

namespace cpu {
void run(Context& ctx, const ExpertSort& a);
void run(Context& ctx, const ExpertGather& a);
void run(Context& ctx, const ExpertCombine& a);
void run(Context& ctx, const ExpertCombineBackward& a);
void run(Context& ctx, const ExpertGatherBackward& a);
void run(Context& ctx, const ExpertLinearForward& a);
void run(Context& ctx, const ExpertLinearBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const ExpertSort& a);
void run(Context& ctx, const ExpertGather& a);
void run(Context& ctx, const ExpertCombine& a);
void run(Context& ctx, const ExpertCombineBackward& a);
void run(Context& ctx, const ExpertGatherBackward& a);
void run(Context& ctx, const ExpertLinearForward& a);
void run(Context& ctx, const ExpertLinearBackward& a);
}  // namespace cuda

}  // namespace nestling
