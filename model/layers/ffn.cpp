#include "model/layers/ffn.h"

#include "kernels/ops/activation.h"
#include "model/layers/product.h"

namespace nestling {

void activate(Context& ctx, View act, ConstView gate, ConstView up) {
  if (gate)
    gated_silu_forward(ctx, {.y = act, .gate = gate, .up = up});
  else
    squared_relu_forward(ctx, {.y = act, .x = up});
}

void activate_backward(Context& ctx, View dup, ConstView dact, View gate, ConstView up) {
  if (gate)
    gated_silu_backward(ctx, {.dgate = gate, .dup = dup, .dy = dact, .gate = gate, .up = up});
  else
    squared_relu_backward(ctx, {.dx = dup, .dy = dact, .x = up});
}

FfnProducts ffn_products_forward(LayerRun& run, const FfnWeights<Weight>& w, ConstView x, View y) {
  const auto enter = [&](const Weight& weight) {
    const View made = run.arena.alloc(run.activations, {x.dim(0), weight.dim(0)});
    product(run.ctx, {.y = made, .x = x, .w = weight});
    return made;
  };
  FfnProducts a;
  if (w.gate) a.gate = enter(w.gate);
  a.up = enter(w.up);
  a.act = run.arena.alloc(run.activations, {x.dim(0), w.up.dim(0)});
  activate(run.ctx, a.act, a.gate, a.up);
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
  activate_backward(run.ctx, dact, dact, a.gate, a.up);
  const auto enter_backward = [&](View d, View dw, const Weight& weight, bool accumulate) {
    product_backward(run.ctx, {.dx = dx,
                               .dw = dw,
                               .dy = d,
                               .x = x,
                               .w = weight,
                               .accumulate_dx = accumulate,
                               .accumulate_dw = !run.fresh});
  };
  enter_backward(dact, g.up, w.up, accumulate_dx);
  if (w.gate) enter_backward(a.gate, g.gate, w.gate, true);
}

FfnActs ffn_forward(LayerRun& run, const FfnParams<Weight>& w, ConstView input, View output) {
  FfnActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  const View to = begin_mixer_output(run, input, output, a.mixed);
  const FfnProducts p = ffn_products_forward(run, {w.up_gate, w.up, w.down, run.layer_masks().ffn},
                                             a.norm.normed, to);
  end_mixer_output(run, input, output, to);
  a.gate = p.gate;
  a.up = p.up;
  a.act = p.act;
  return a;
}

void ffn_backward(LayerRun& run, const FfnParams<Weight>& w, const FfnParams<View>& g,
                  const FfnActs& a, View dh) {
  const Arena::Mark mark(run.arena);
  const View dnormed = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  ffn_products_backward(run, {w.up_gate, w.up, w.down, run.layer_masks().ffn},
                        {g.up_gate, g.up, g.down, run.layer_mask_grads().ffn},
                        {.gate = a.gate, .up = a.up, .act = a.act}, a.norm.normed,
                        mixer_output_backward(run, a.mixed, dh), dnormed, false);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

}  // namespace nestling
