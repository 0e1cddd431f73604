// layer.h - what every layer's forward, backward and step have in common.
//
// Residual      output = input + mixer(norm(input)). Layers read their widths off the weight views,
//               so a smaller size is the same call with prefix views.
// Activations   forward allocates what backward needs in `run.arena` and returns it as a struct of
//               views; the caller's Arena::Mark gives it back. Temporaries go to the context's
//               scratch.
// Gradients     backward takes dh, the gradient of the output, and turns it in place into the
//               gradient of the input. Parameter gradients accumulate; an absent gradient view is a
//               frozen parameter.
// Caches        with a cache, forward also leaves there the state after the last token of every
//               segment (segment b is sequence b), from which step goes on.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"
#include "model/config.h"
#include "model/parameters.h"

namespace nestling {

struct LayerRun {
  Context& ctx;
  Arena& arena;
  const ModelConfig& config;
  Segments segments;
  bool save = true;  // keep what backward needs
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

// The norm in front of every mixer.
struct NormActs {
  ConstView input;  // [T, D] the residual stream, kept by the caller
  View rstd;        // [T]
  View normed;      // [T, D]
};
NormActs layer_norm_forward(LayerRun& run, ConstView weight, ConstView input);
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
