#include "model/layers/ffn.h"

#include "kernels/ops/activation.h"
#include "model/layers/product.h"

namespace nestling {

FfnProducts ffn_products_forward(LayerRun& run, const FfnWeights<Weight>& w, ConstView x, View y) {
  const int64_t tokens = x.dim(0);
  FfnProducts a{.up = run.arena.alloc(run.activations, {tokens, w.up.dim(0)}),
                .act = run.arena.alloc(run.activations, {tokens, w.up.dim(0)})};
  product(run.ctx, {.y = a.up, .x = x, .w = w.up});
  squared_relu_forward(run.ctx, {.y = a.act, .x = a.up});
  const Arena::Mark mark(run.ctx.scratch());
  product(run.ctx, {.y = y, .x = masked(run.ctx, a.act, w.mask), .w = w.down, .accumulate = true});
  return a;
}

void ffn_products_backward(LayerRun& run, const FfnWeights<Weight>& w, const FfnWeights<View>& g,
                           const FfnProducts& a, ConstView x, ConstView dy, View dx,
                           bool accumulate_dx) {
  const Arena::Mark mark(run.arena);
  const Arena::Mark scratch(run.ctx.scratch());
  const View dact = run.arena.alloc(run.activations, {a.act.dim(0), a.act.dim(1)});
  product_backward(run.ctx, {.dx = dact,
                             .dw = g.down,
                             .dy = dy,
                             .x = masked(run.ctx, a.act, w.mask),
                             .w = w.down,
                             .accumulate_dw = !run.fresh});
  masked_backward(run.ctx, dact, a.act, w.mask, g.mask);
  squared_relu_backward(run.ctx, {.dx = dact, .dy = dact, .x = a.up});
  product_backward(run.ctx, {.dx = dx,
                             .dw = g.up,
                             .dy = dact,
                             .x = x,
                             .w = w.up,
                             .accumulate_dx = accumulate_dx,
                             .accumulate_dw = !run.fresh});
}

FfnActs ffn_forward(LayerRun& run, const FfnParams<Weight>& w, ConstView input, View output) {
  FfnActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  const View to = begin_mixer_output(run, input, output, a.mixed);
  const FfnProducts p =
      ffn_products_forward(run, {w.up, w.down, run.layer_masks().ffn}, a.norm.normed, to);
  end_mixer_output(run, input, output, a.mixed);
  a.up = p.up;
  a.act = p.act;
  return a;
}

void ffn_backward(LayerRun& run, const FfnParams<Weight>& w, const FfnParams<View>& g,
                  const FfnActs& a, View dh) {
  const Arena::Mark mark(run.arena);
  const View dnormed = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  ffn_products_backward(run, {w.up, w.down, run.layer_masks().ffn},
                        {g.up, g.down, run.layer_mask_grads().ffn}, {.up = a.up, .act = a.act},
                        a.norm.normed, mixer_output_backward(run, a.mixed, dh), dnormed, false);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

}  // namespace nestling
