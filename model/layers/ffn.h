// ffn.h - the dense feed-forward layer: h + down(relu(up(norm(h)))^2), or, with a gate,
// h + down(silu(up_gate(norm(h))) up(norm(h))).
#pragma once
#include "model/layers/layer.h"

namespace nestling {

struct FfnActs {
  NormActs norm;
  View gate;   // [T, F] of a gated activation; backward leaves its gradient there
  View up;     // [T, F]
  View act;    // [T, F]
  View mixed;  // [T, D] with masks only
};

FfnActs ffn_forward(LayerRun& run, const FfnParams<Weight>& w, ConstView input, View output);
void ffn_backward(LayerRun& run, const FfnParams<Weight>& w, const FfnParams<View>& g,
                  const FfnActs& acts, View dh);

// The two products and the activation alone, as the shared expert uses them too.
struct FfnProducts {
  View gate, up, act;  // [T, F]; backward leaves the gate's gradient in its place
};
template <class T>  // ConstView, or View for gradients
struct FfnWeights {
  T gate, up, down;
  T mask = {};  // [F] absent: full width
};
// act = relu(up)^2, or silu(gate) up where there is a gate. All [T, F].
void activate(Context& ctx, View act, ConstView gate, ConstView up);
// dup may be dact. What was the gate becomes its gradient.
void activate_backward(Context& ctx, View dup, ConstView dact, View gate, ConstView up);

// y accumulates.
FfnProducts ffn_products_forward(LayerRun& run, const FfnWeights<Weight>& w, ConstView x, View y);
// dx [T, D] is overwritten, or accumulated.
void ffn_products_backward(LayerRun& run, const FfnWeights<Weight>& w, const FfnWeights<View>& g,
                           const FfnProducts& acts, ConstView x, ConstView dy, View dx,
                           bool accumulate_dx);

}  // namespace nestling
