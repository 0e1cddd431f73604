#include "model/layers/layer.h"

#include "kernels/core/tensor.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/mask.h"
#include "kernels/ops/rms_norm.h"

namespace nestling {

namespace {

View by_token(View x) {
  return x.rank() == 3 ? merge_cols(x) : x;
}
ConstView by_token(ConstView x) {
  return x.rank() == 3 ? merge_cols(x) : x;
}

View alloc_like(Arena& arena, ConstView x) {
  return x.rank() == 3 ? arena.alloc(x.dtype(), {x.dim(0), x.dim(1), x.dim(2)})
                       : arena.alloc(x.dtype(), {x.dim(0), x.dim(1)});
}

ConstView active_width(const LayerRun& run) {
  return run.masks ? run.masks->active : ConstView();
}

}  // namespace

ConstView masked(Context& ctx, ConstView x, ConstView m, int64_t repeat) {
  if (!m) return x;
  const View y = alloc_like(ctx.scratch(), x);
  mask_forward(ctx, {.y = by_token(y), .x = by_token(x), .m = flatten(m), .repeat = repeat});
  return y;
}

void masked_backward(Context& ctx, View dx, ConstView x, ConstView m, View dm, int64_t repeat) {
  if (!m) return;
  mask_backward(ctx, {.dx = by_token(dx),
                      .dm = flatten(dm),
                      .dy = by_token(dx),
                      .x = by_token(x),
                      .m = flatten(m),
                      .repeat = repeat});
}

View begin_mixer_output(LayerRun& run, ConstView input, View output, View& mixed) {
  const bool with_mask = static_cast<bool>(run.layer_masks().out);
  if (!with_mask && run.config.residual_scale == 1) {
    copy(run.ctx, output, input);
    return output;
  }
  const View to = alloc_like(with_mask ? run.arena : run.ctx.scratch(), input);
  fill_zero(run.ctx, to);
  if (with_mask) mixed = to;
  return to;
}

void end_mixer_output(LayerRun& run, ConstView input, View output, ConstView to) {
  const float factor = run.config.residual_scale;
  if (const ConstView m = run.layer_masks().out) {
    mask_forward(run.ctx, {.y = output, .x = to, .m = m});
    if (factor != 1) scale(run.ctx, output, factor);
    add(run.ctx, output, output, input);
  } else if (factor != 1) {
    copy(run.ctx, output, input);
    add_scaled(run.ctx, output, to, factor);
  }
}

View begin_step_output(StepRun& run, View h) {
  if (run.config.residual_scale == 1) return h;
  const View to = alloc_like(run.ctx.scratch(), h);
  fill_zero(run.ctx, to);
  return to;
}

void end_step_output(StepRun& run, View h, ConstView to) {
  if (run.config.residual_scale != 1) add_scaled(run.ctx, h, to, run.config.residual_scale);
}

ConstView mixer_output_backward(LayerRun& run, ConstView mixed, ConstView dh) {
  const float factor = run.config.residual_scale;
  if (!mixed && factor == 1) return dh;
  const View dmixed = alloc_like(run.arena, dh);
  ConstView dscaled = dh;
  if (factor != 1) {
    copy(run.ctx, dmixed, dh);
    scale(run.ctx, dmixed, factor);
    dscaled = dmixed;
  }
  if (mixed)
    mask_backward(run.ctx, {.dx = dmixed,
                            .dm = run.layer_mask_grads().out,
                            .dy = dscaled,
                            .x = mixed,
                            .m = run.layer_masks().out});
  return dmixed;
}

NormActs layer_norm_forward(LayerRun& run, ConstView weight, ConstView input) {
  NormActs acts{.input = input,
                .rstd = run.arena.alloc(DType::kF32, {input.dim(0)}),
                .normed = run.arena.alloc(run.activations, {input.dim(0), input.dim(1)})};
  rms_norm_forward(run.ctx, {.y = acts.normed,
                             .rstd = acts.rstd,
                             .x = input,
                             .w = weight,
                             .active = active_width(run),
                             .eps = run.config.eps});
  return acts;
}

void norm_backward(LayerRun& run, ConstView weight, View dweight, const NormActs& acts,
                   ConstView dnormed, View dx) {
  rms_norm_backward(run.ctx, {.dx = dx,
                              .dw = dweight,
                              .dactive = run.mask_grads ? run.mask_grads->active : View(),
                              .dy = dnormed,
                              .x = acts.input,
                              .w = weight,
                              .rstd = acts.rstd,
                              .active = active_width(run)});
}

void layer_norm_backward(LayerRun& run, ConstView weight, View dweight, const NormActs& acts,
                         View dnormed, View dh) {
  norm_backward(run, weight, dweight, acts, dnormed, dnormed);
  add(run.ctx, dh, dh, dnormed);
}

}  // namespace nestling
