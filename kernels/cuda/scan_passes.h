// scan_passes.h - the passes of the chunked scan that both directions take. Internal to
// kernels/cuda/scan*. E is float or __nv_bfloat16; results are scratch of the Context.
//
// With S the state before a chunk and dS the gradient of the state after it, head_i = e^{sum_i} and
// tail_j = e^{sum of the chunk - sum_j}, forward and backward are the same passes read either way:
//   chunk_sums   sum_t weight_t v_t u_t^T   forward: x and B, dt tail;   backward: dy and C, head
//   chain        what chunks leave, carried along the segment: S; in reverse, dS
//   outputs      y_i  = head_i S C_i        + sum_{j <= i} (C_i.B_j) L_ij dt_j x_j   + D x_i
//                dx_j = dt_j (tail_j dS B_j + sum_{i >= j} (C_i.B_j) L_ij dy_i)      + D dy_j
// with L_ij = e^{sum_i - sum_j}: every decay is the exponential of what is never positive.
#pragma once
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/scan_plan.h"

namespace nestling::cuda::scan {

template <class E>
TokenHeads<E> token_heads(View v) {
  return {elements<E>(v), v.stride(0), v.stride(1), rows_aligned(v, 16)};
}
template <class E>
TokenHeads<const E> token_heads(ConstView v) {
  return {elements<E>(v), v.stride(0), v.stride(1), rows_aligned(v, 16)};
}

// B or C [T, N, G] as [G, T, padded N]; and back, rounded to the view's type E where F is not.
template <class E>
const E* to_groups(Context& ctx, const Plan& p, ConstView v);
template <class E, class F>
void from_groups(Context& ctx, const Plan& p, View v, const F* rows);

// C_i B_j^T of all pairs: [pairs, G, 64, 64], zero outside the tokens.
template <class E>
const float* pair_products(Context& ctx, const Plan& p, const E* C, const E* B);

enum class Direction : uint8_t { kForward, kBackward };

template <class E>
void chunk_sums(Context& ctx, const Plan& p, Direction direction, TokenHeads<const E> v, const E* u,
                StateView out);

// Slot = chunk: what each chunk leaves becomes the state before it.
void chain_states(Context& ctx, const Plan& p, StateView states, StateView initial, StateView last);
// Slot = chunk: what each chunk gives to the gradient of the state before it becomes the gradient of the state after
// it. Returns parts of <S, dS> e^{sum of the chunk}, [parts, chunks, H].
struct ChainParts {
  const float* data;
  int64_t count;
};
ChainParts chain_gradients(Context& ctx, const Plan& p, StateView gradients, StateView states);

template <class E>
struct Outputs {
  TokenHeads<E> out;       // y; backward dx
  TokenHeads<const E> in;  // x; backward dy
  TokenHeads<const E> x;   // backward
  const E* u;              // C; backward B
  StateView states;        // S; backward dS
  bool initial;            // forward: the first chunk of a segment reads a state too
  const float* products;   // of the pairs
  const float* D;
  float* dD_parts;  // backward: [channel tiles, tiles, H]
};
template <class E>
void outputs(Context& ctx, const Plan& p, Direction direction, const Outputs<E>& o);

}  // namespace nestling::cuda::scan
