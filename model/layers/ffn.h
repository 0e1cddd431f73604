// ffn.h - the dense feed-forward layer with squared ReLU: h + down(relu(up(norm(h)))^2).
#pragma once
#include "model/layers/layer.h"

namespace nestling {

struct FfnActs {
  NormActs norm;
  View up;     // [T, F]
  View act;    // [T, F]
  View mixed;  // [T, D] with masks only
};

FfnActs ffn_forward(LayerRun& run, const FfnParams<Weight>& w, ConstView input, View output);
void ffn_backward(LayerRun& run, const FfnParams<Weight>& w, const FfnParams<View>& g,
                  const FfnActs& acts, View dh);

// The two products and the activation alone, as the shared expert uses them too.
struct FfnProducts {
  View up, act;  // [T, F]
};
template <class T>  // ConstView, or View for gradients
struct FfnWeights {
  T up, down;
  T mask = {};  // [F] absent: full width
};
// y accumulates.
FfnProducts ffn_products_forward(LayerRun& run, const FfnWeights<Weight>& w, ConstView x, View y);
// dx [T, D] is overwritten, or accumulated.
void ffn_products_backward(LayerRun& run, const FfnWeights<Weight>& w, const FfnWeights<View>& g,
                           const FfnProducts& acts, ConstView x, ConstView dy, View dx,
                           bool accumulate_dx);

}  // namespace nestling
