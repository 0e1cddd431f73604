// conv1d.h - causal depthwise convolution along time, then SiLU: y = silu(bias + sum_k w_k
// x_{t-K+1+k}).
//
// Shapes        x, y [T, C]   w [C, K]   bias [C]   state [segments or batch, C, K-1]
// Dtypes        f32; on CUDA x and y of a forward, and their gradients, may be bf16.
// Segments      each starts from zeros, or from `initial` where given.
// State         the last K-1 inputs, oldest first: what one-token steps continue from.
// Elasticity    C comes from the views.
// Limits        CUDA: K <= 8.
// Determinism   same inputs, shapes and threads: same bits.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling {

struct Conv1dForward {
  View y;                  // [T, C] overwritten; must not be x
  View final_state = {};   // [segments, C, K-1] overwritten; may be initial
  ConstView x;             // [T, C]
  ConstView w;             // [C, K]
  ConstView bias = {};     // [C]
  ConstView initial = {};  // [segments, C, K-1]
  Segments segments;
};

struct Conv1dBackward {
  View dx;              // [T, C] overwritten; must not be dy
  View dw;              // [C, K] accumulated
  View dbias = {};      // [C]    accumulated
  ConstView dy;         // [T, C] gradient of the activated output
  ConstView x;          // [T, C] saved by forward (the activation is recomputed)
  ConstView w;          // [C, K]
  ConstView bias = {};  // [C]
  Segments segments;    // segments start from zeros
};

// One token for each of B independent sequences.
struct Conv1dStep {
  View y;               // [B, C] overwritten
  View state;           // [B, C, K-1] advanced by one token
  ConstView x;          // [B, C]
  ConstView w;          // [C, K]
  ConstView bias = {};  // [C]
};

void conv1d_forward(Context& ctx, const Conv1dForward& a);
void conv1d_backward(Context& ctx, const Conv1dBackward& a);
void conv1d_step(Context& ctx, const Conv1dStep& a);

namespace cpu {
void run(Context& ctx, const Conv1dForward& a);
void run(Context& ctx, const Conv1dBackward& a);
void run(Context& ctx, const Conv1dStep& a);
}  // namespace cpu

namespace cuda {
void run(Context& ctx, const Conv1dForward& a);
void run(Context& ctx, const Conv1dBackward& a);
void run(Context& ctx, const Conv1dStep& a);
}  // namespace cuda

}  // namespace nestling
