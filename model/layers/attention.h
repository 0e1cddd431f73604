// attention.h - grouped-query attention: h + o_proj(attend(norm(h))). Where the config says so every
// query and key head is normed (Qwen3), then rotated by its position in its segment (RoPE).
#pragma once
#include "model/layers/layer.h"

namespace nestling {

// Of a norm of heads: rows are heads, one token's after another.
struct HeadNormActs {
  View raw;   // [T, heads, h] f32, as projected; absent without the norm
  View rstd;  // [T * heads]
};

struct AttentionActs {
  NormActs norm;
  HeadNormActs q_norm, k_norm;
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
