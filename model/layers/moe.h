// moe.h - mixture of experts: every token goes to top_k routed experts and to the shared one.
//
//   h + sum_k weight_k down_e(relu(up_e(x))^2) + shared(x),   x = norm(h)
//
// or with silu(up_gate_e(x)) up_e(x) in place of the square, in the shared one too.
// No capacity and no drops. The gate reads and multiplies in f32.
#pragma once
#include "model/layers/ffn.h"
#include "model/layers/layer.h"

namespace nestling {

struct MoeActs {
  NormActs norm;
  View logits;   // [T, E]
  View index;    // [T, k] i32
  View weight;   // [T, k]
  View offsets;  // [E+1] i32: expert e owns rows [offsets[e], offsets[e+1])
  View order;    // [R] i32, R = T*k
  View rows;     // [R, D]
  View gate;     // [R, Fe] of a gated activation; backward leaves gradients there
  View up, act;  // [R, Fe]
  View down;     // [R, D]; as gate
  FfnProducts shared;
  View mixed;  // [T, D] with masks only
};

MoeActs moe_forward(LayerRun& run, const MoeParams<Weight>& w, ConstView input, View output);
void moe_backward(LayerRun& run, const MoeParams<Weight>& w, const MoeParams<View>& g,
                  const MoeActs& acts, View dh);

}  // namespace nestling
