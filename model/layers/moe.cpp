#include "model/layers/moe.h"

#include "kernels/ops/experts.h"
#include "kernels/ops/linear.h"
#include "model/layers/product.h"

namespace nestling {

namespace {

void route(LayerRun& run, const MoeParams<Weight>& w, MoeActs& a) {
  Context& ctx = run.ctx;
  Arena& arena = run.arena;
  const int64_t tokens = a.norm.normed.dim(0);
  const int64_t experts = w.gate.dim(0);
  const int64_t k = run.config.top_k;
  a.logits = arena.alloc(DType::kF32, {tokens, experts});
  a.index = arena.alloc(DType::kI32, {tokens, k});
  a.weight = arena.alloc(DType::kF32, {tokens, k});
  a.offsets = arena.alloc(DType::kI32, {experts + 1});
  a.order = arena.alloc(DType::kI32, {tokens * k});
  linear_forward(ctx, {.y = a.logits, .x = a.norm.normed, .w = w.gate});
  gate_forward(ctx, {.index = a.index,
                     .weight = a.weight,
                     .logits = a.logits,
                     .bias = w.gate_bias,
                     .mask = run.layer_masks().experts,
                     .rule = run.config.gate});
  expert_sort(ctx, {.offsets = a.offsets, .order = a.order, .index = a.index});
}

void routed_backward(LayerRun& run, const MoeParams<Weight>& w, const MoeParams<View>& g,
                     const MoeActs& a, ConstView dy, View dnormed) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(run.arena);
  const Arena::Mark scratch(ctx.scratch());
  const LayerMasks masks = run.layer_masks();
  const LayerMaskGrads mask_grads = run.layer_mask_grads();
  const auto like = [&](ConstView x) { return run.arena.alloc(x.dtype(), {x.dim(0), x.dim(1)}); };
  const View drows = a.down;  // which nothing reads any more
  const View dact = like(a.act);
  const View dweight = like(a.weight);
  const View dlogits = like(a.logits);
  expert_combine_backward(ctx, {.drows = drows,
                                .dweight = dweight,
                                .dy = dy,
                                .rows = a.down,
                                .weight = a.weight,
                                .order = a.order});
  expert_product_backward(ctx, {.dx = dact,
                                .dw = g.down,
                                .dy = drows,
                                .x = masked(ctx, a.act, masks.expert_ffn),
                                .w = w.down,
                                .offsets = a.offsets,
                                .accumulate_dw = !run.fresh});
  masked_backward(ctx, dact, a.act, masks.expert_ffn, mask_grads.expert_ffn);
  activate_backward(ctx, dact, dact, a.gate, a.up);
  const auto enter_backward = [&](View dw, ConstView d, const Weight& weight, bool accumulate) {
    expert_product_backward(ctx, {.dx = drows,
                                  .dw = dw,
                                  .dy = d,
                                  .x = a.rows,
                                  .w = weight,
                                  .offsets = a.offsets,
                                  .accumulate_dw = !run.fresh});
    expert_gather_backward(
        ctx, {.dx = dnormed, .drows = drows, .order = a.order, .accumulate = accumulate});
  };
  enter_backward(g.up, dact, w.up, false);
  if (w.up_gate) enter_backward(g.up_gate, a.gate, w.up_gate, true);
  gate_backward(ctx, {.dlogits = dlogits,
                      .dmask = mask_grads.experts,
                      .dweight = dweight,
                      .index = a.index,
                      .logits = a.logits,
                      .mask = masks.experts,
                      .rule = run.config.gate});
  linear_backward(ctx, {.dx = dnormed,
                        .dw = g.gate,
                        .dy = dlogits,
                        .x = a.norm.normed,
                        .w = w.gate,
                        .accumulate_dx = true});
}

}  // namespace

MoeActs moe_forward(LayerRun& run, const MoeParams<Weight>& w, ConstView input, View output) {
  Context& ctx = run.ctx;
  MoeActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  route(run, w, a);
  const int64_t pairs = a.order.dim(0);
  const int64_t width = w.up.dim(1);
  a.rows = run.arena.alloc(run.activations, {pairs, input.dim(1)});
  if (w.up_gate) a.gate = run.arena.alloc(run.activations, {pairs, width});
  a.up = run.arena.alloc(run.activations, {pairs, width});
  a.act = run.arena.alloc(run.activations, {pairs, width});
  a.down = run.arena.alloc(run.activations, {pairs, input.dim(1)});
  expert_gather(ctx, {.rows = a.rows, .x = a.norm.normed, .order = a.order});
  if (w.up_gate)
    expert_product(ctx, {.y = a.gate, .x = a.rows, .w = w.up_gate, .offsets = a.offsets});
  expert_product(ctx, {.y = a.up, .x = a.rows, .w = w.up, .offsets = a.offsets});
  activate(ctx, a.act, a.gate, a.up);
  const LayerMasks masks = run.layer_masks();
  {
    const Arena::Mark mark(ctx.scratch());
    const ConstView act = masked(ctx, a.act, masks.expert_ffn);
    expert_product(ctx, {.y = a.down, .x = act, .w = w.down, .offsets = a.offsets});
  }
  const View to = begin_mixer_output(run, input, output, a.mixed);
  expert_combine(
      ctx, {.y = to, .rows = a.down, .weight = a.weight, .order = a.order, .accumulate = true});
  if (w.shared_up)
    a.shared = ffn_products_forward(
        run, {w.shared_up_gate, w.shared_up, w.shared_down, masks.shared_ffn}, a.norm.normed, to);
  end_mixer_output(run, input, output, to);
  return a;
}

void moe_backward(LayerRun& run, const MoeParams<Weight>& w, const MoeParams<View>& g,
                  const MoeActs& a, View dh) {
  const Arena::Mark mark(run.arena);
  const View dnormed = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  const ConstView dy = mixer_output_backward(run, a.mixed, dh);
  routed_backward(run, w, g, a, dy, dnormed);
  if (w.shared_up)
    ffn_products_backward(
        run, {w.shared_up_gate, w.shared_up, w.shared_down, run.layer_masks().shared_ffn},
        {g.shared_up_gate, g.shared_up, g.shared_down, run.layer_mask_grads().shared_ffn}, a.shared,
        a.norm.normed, dy, dnormed, true);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

}  // namespace nestling
