// attention.h - grouped-query attention without positions (Nemotron-H): h +
// o_proj(attend(norm(h))).
#pragma once
#include "model/layers/layer.h"

namespace nestling {

struct AttentionActs {
  NormActs norm;
  View q;      // [T, Q, h]
  View k, v;   // [T, K, h]
  View y;      // [T, Q, h]
  View lse;    // [T, Q]
  View mixed;  // [T, D] with masks only
};

AttentionActs attention_layer_forward(LayerRun& run, const AttentionParams<Weight>& w,
                                      ConstView input, View output, const AttentionCache* cache);
void attention_layer_backward(LayerRun& run, const AttentionParams<Weight>& w,
                              const AttentionParams<View>& g, const AttentionActs& acts, View dh);
void attention_layer_step(StepRun& run, const AttentionParams<Weight>& w,
                          const AttentionCache& cache, View h);

}  // namespace nestling
