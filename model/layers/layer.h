// layer.h - what every layer's forward, backward and step have in common.
//
// Residual      output = input + mixer(norm(input)). Layers read their widths off the weight views,
//               so a smaller size is the same call with prefix views.
// Activations   forward allocates what backward needs in `run.arena` and returns it as a struct of
//               views; the caller's Arena::Mark gives it back. Temporaries go to the context's
//               scratch.
// Types         run.activations: of what the operators of a mixer hand to each other, and of its
//               gradient. The residual stream, its gradient, the gradient of the norm's output, dt,
//               gate logits, states and sums of squares are f32 in every run. So are caches, but
//               for keys and values, which are as run.activations; a step's are as its cache's.
// Scale         a model whose config says residual_scale adds that much of every mixer's output.
// Masks         in mask mode a layer multiplies its widths in where they are produced (model/masks.h);
//               activations are saved before their mask and masked again in backward. The mixer's
//               output then has a buffer of its own, as a scaled one has; else it is accumulated
//               straight into the residual stream.
// Gradients     backward takes dh, the gradient of the output, and turns it in place into the
//               gradient of the input. Parameter gradients accumulate; an absent gradient view is a
//               frozen parameter. With run.fresh those that products make (ParameterSpec) are written
//               instead, whatever they held: the first backward of a step saves their zeros.
// Caches        with a cache, forward also leaves there the state after the last token of every
//               segment (segment b is sequence b), from which step goes on.
// Continued     with `starts` too, segment b goes on where the cache of sequence b is: behind starts[b] tokens.
//               With `hold` the states of convolutions and scans stay as they were, until the layer is told
//               how many of the tokens stand (model_keep): those that do not leave nothing behind but rows of
//               keys and values beyond the sequence's length.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"
#include "model/config.h"
#include "model/masks.h"
#include "model/parameters.h"

namespace nestling {

struct LayerRun {
  Context& ctx;
  Arena& arena;
  const ModelConfig& config;
  Segments segments;
  bool save = true;        // keep what backward needs
  bool recompute = false;  // of it every layer's input only (model/model.h)
  bool fresh = false;      // products write their gradients; whole weights only
  std::span<const int32_t> starts =
      {};                           // [segments] forward with caches: tokens they hold; empty: none
  bool hold = false;                // with starts and save: states are not advanced
  DType activations = DType::kF32;  // between the operators of a mixer; or bf16
  const ModelMasks* masks = nullptr;           // mask mode
  const ModelMaskGrads* mask_grads = nullptr;  // backward accumulates here
  size_t layer = 0;                            // the one in hand, set by the model

  LayerMasks layer_masks() const { return masks ? masks->layers.at(layer) : LayerMasks{}; }
  LayerMaskGrads layer_mask_grads() const {
    return mask_grads ? mask_grads->layers.at(layer) : LayerMaskGrads{};
  }
};

// One token for each of B sequences. lengths[b] counts the tokens of sequence b, the new one
// included.
struct StepRun {
  Context& ctx;
  const ModelConfig& config;
  std::span<const int32_t> lengths;
};

// Borrowed views on the decoding state of B sequences; owned by runtime's DecodeState.
struct MambaCache {
  View conv_x;          // [B, H*P, K-1]
  View conv_B, conv_C;  // [B, N*G, K-1]
  View state;           // [B, H, P, N]
};
struct AttentionCache {
  View k, v;  // [B, capacity, K*h]
};
struct LayerCache {  // of whichever kind the layer is; the other stays empty
  MambaCache mamba;
  AttentionCache attention;
};

// x times its mask in the context's scratch, or x itself where no mask is given. x is [T, C] or
// [T, H, P], m holds C / repeat or H * P / repeat entries.
ConstView masked(Context& ctx, ConstView x, ConstView m, int64_t repeat = 1);
// Turns the gradient of the masked x into that of x in place, and accumulates that of the mask.
void masked_backward(Context& ctx, View dx, ConstView x, ConstView m, View dm, int64_t repeat = 1);

// Where a mixer accumulates its output: without mask and scale `output` itself, which then holds the
// input; with a mask a buffer of its own, kept as `mixed` [T, D] for the mask's gradient; with a scale
// alone one in the context's scratch, whose mark is the model's. `to` is what begin gave.
View begin_mixer_output(LayerRun& run, ConstView input, View output, View& mixed);
void end_mixer_output(LayerRun& run, ConstView input, View output, ConstView to);
// The same of a step, which turns h into its output.
View begin_step_output(StepRun& run, View h);
void end_step_output(StepRun& run, View h, ConstView to);
// The gradient of what the mixer put out: dh, or a copy in the arena, scaled and masked.
ConstView mixer_output_backward(LayerRun& run, ConstView mixed, ConstView dh);

// The norm in front of every mixer, and the final one.
struct NormActs {
  ConstView input;  // [T, D] the residual stream, kept by the caller
  View rstd;        // [T]
  View normed;      // [T, D]
};
NormActs layer_norm_forward(LayerRun& run, ConstView weight, ConstView input);
// The norm alone: dx [T, D] is overwritten and may be dnormed.
void norm_backward(LayerRun& run, ConstView weight, View dweight, const NormActs& acts,
                   ConstView dnormed, View dx);
// dh += gradient of the norm; dnormed is overwritten.
void layer_norm_backward(LayerRun& run, ConstView weight, View dweight, const NormActs& acts,
                         View dnormed, View dh);

// Weights [a, b, D] as the matrix [a*b, D] a product reads, and [D, a, b] as [D, a*b].
inline ConstView merge_rows(ConstView w) {
  return w.reshape({w.dim(0) * w.dim(1), w.dim(2)});
}
inline ConstView merge_cols(ConstView w) {
  return w.reshape({w.dim(0), w.dim(1) * w.dim(2)});
}
inline View merge_rows(View w) {
  return w ? w.reshape({w.dim(0) * w.dim(1), w.dim(2)}) : w;
}
inline View merge_cols(View w) {
  return w ? w.reshape({w.dim(0), w.dim(1) * w.dim(2)}) : w;
}
inline ConstView flatten(ConstView w) {
  return w ? w.reshape({w.size()}) : w;
}
inline View flatten(View w) {
  return w ? w.reshape({w.size()}) : w;
}

}  // namespace nestling
