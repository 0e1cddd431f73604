// model.h - embedding, the residual layers in order, the final norm; forward, backward and
// one-token step. The output projection belongs to the loss (kernels/ops/loss.h) or to logits().
//
// Shapes        tokens [T] i32, T the tokens of a micro-batch in segments; hidden states [T, D]
// Sizes         the widths are those of the parameter views: prefix views run a smaller size. With
//               run.masks the widths are masks on whole views (model/masks.h); the same layers run.
// Recompute     with run.recompute, forward keeps of every layer its input [T, D] and backward runs the
//               layer's forward again before the layer's backward: memory of one layer's activations
//               in place of all, at the price of a second forward, and no bit differs.
// Shared        weights whose layers ranks share (w.shared, model/shared_layers.h) are brought before a layer runs, and
//               its gradients summed over the ranks behind it: forward and backward are collectives then.
// Determinism   same inputs, widths, threads and device: same bits.
#pragma once
#include <functional>

#include "model/layers/attention.h"
#include "model/layers/ffn.h"
#include "model/layers/mamba.h"
#include "model/layers/moe.h"

namespace nestling {

using LayerActs = std::variant<MambaActs, AttentionActs, FfnActs, MoeActs>;

// Sees a layer's saved activations and its output, between this layer and the next.
using LayerWatch = std::function<void(size_t layer, const LayerActs& acts, ConstView output)>;

struct ModelActs {
  std::vector<LayerActs> layers;  // empty unless saved
  std::vector<View> outputs;      // of every layer, [T, D], where run.recompute
  NormActs final_norm;            // .normed [T, D] is what the output projection reads
};

// With run.save, activations stay in run.arena until the caller's mark dies; with run.recompute too,
// each layer's entry holds norm.input and, of experts, offsets, and nothing else. caches, if given,
// has one entry a layer and receives the state after every segment; with run.starts segments go on from there.
// With `watch` the activations of one layer at a time are there: those that it sees.
ModelActs model_forward(LayerRun& run, const ModelParams<Weight>& w, ConstView tokens,
                        const std::vector<LayerCache>* caches = nullptr,
                        const LayerWatch& watch = nullptr);
// dnormed [T, D]: gradient of final_norm.normed; overwritten.
void model_backward(LayerRun& run, const ModelParams<Weight>& w, const ModelParams<View>& g,
                    const ModelActs& acts, ConstView tokens, View dnormed);
// After a forward with run.starts, run.hold and run.save: of segment i the first counts[i] >= 1 tokens stand, and caches
// become what a forward of these alone had left. `run` as it was.
void model_advance(LayerRun& run, const ModelParams<Weight>& w, const ModelActs& acts,
                   std::span<const int32_t> counts, const std::vector<LayerCache>& caches);
// One token for each of B sequences: normed [B, D] is overwritten with the final hidden states.
void model_step(StepRun& run, const ModelParams<Weight>& w, ConstView tokens,
                const std::vector<LayerCache>& caches, View normed);
// out [T, V] = normed W_head^T, f32.
void model_logits(Context& ctx, const ModelParams<Weight>& w, ConstView normed, View out);

}  // namespace nestling
