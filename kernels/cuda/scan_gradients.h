// scan_gradients.h - the passes that only the backward scan takes. Internal to kernels/cuda/scan*.
//
// K_ij = (C_i.B_j) L_ij (dy_i.x_j) holds what each pair contributes to y. Its columns give d dt_j; its
// rows times dt_j less its columns, without the diagonal, whose decay is one, give d sum_i. Both sums
// are taken of the same f32 numbers: they cancel wherever a decay does not cross.
#pragma once
#include "kernels/cuda/scan_passes.h"

namespace nestling::cuda::scan {

template <class E>
struct PairGradients {
  E* products;      // [pairs, G, 64, 64]: sum over the group's heads of (dy_i.x_j) L_ij dt_j
  float* rows;      // [pairs, H, 64]: sum_j K_ij dt_j, without the diagonal
  float* cols;      // [pairs, H, 64]: sum_i K_ij, without the diagonal
  float* diagonal;  // [H, T]: K_jj
};
template <class E>
PairGradients<E> pair_gradients(Context& ctx, const Plan& p, TokenHeads<const E> dy,
                                TokenHeads<const E> x, const float* products);

// dC_i = sum over heads of head_i dy_i S + sum_{j <= i} dG_ij B_j          (kForward: i reads)
// dB_j = sum over heads of dt_j tail_j x_j dS + sum_{i >= j} dG_ij^T C_i   (kBackward)
// as [G, T, padded N] f32, with dG the pair gradients. Dots: of the state terms, without dt_j, with
// C_i or B_j, [state tiles, H, T]: what the state gives to y_i, or the token to the state after.
struct GroupGradients {
  float* rows;
  float* dots;
};
template <class E>
GroupGradients group_gradients(Context& ctx, const Plan& p, Direction direction,
                               TokenHeads<const E> v, StateView states, const E* own,
                               const E* other, const E* pairs);

// d dt and d sum to ddt_raw, and to the parameters.
struct ScalarGradients {
  const float *rows, *cols, *diagonal;  // PairGradients
  const float *dC_dots, *dB_dots;       // GroupGradients
  ChainParts chain;
  const float* dD_parts;  // [channel tiles, tiles, H]
  ConstView dt_raw, A_log, dt_bias;
  View ddt_raw, dA_log, dD, ddt_bias;
};
void scalar_gradients(Context& ctx, const Plan& p, const ScalarGradients& g);

}  // namespace nestling::cuda::scan
