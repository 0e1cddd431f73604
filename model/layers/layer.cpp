#include "model/layers/layer.h"

#include "kernels/ops/elementwise.h"
#include "kernels/ops/rms_norm.h"

namespace nestling {

NormActs layer_norm_forward(LayerRun& run, ConstView weight, ConstView input) {
  NormActs acts{.input = input,
                .rstd = run.arena.alloc(DType::kF32, {input.dim(0)}),
                .normed = run.arena.alloc(DType::kF32, {input.dim(0), input.dim(1)})};
  rms_norm_forward(
      run.ctx,
      {.y = acts.normed, .rstd = acts.rstd, .x = input, .w = weight, .eps = run.config.eps});
  return acts;
}

void layer_norm_backward(LayerRun& run, ConstView weight, View dweight, const NormActs& acts,
                         View dnormed, View dh) {
  rms_norm_backward(run.ctx, {.dx = dnormed,
                              .dw = dweight,
                              .dy = dnormed,
                              .x = acts.input,
                              .w = weight,
                              .rstd = acts.rstd});
  add(run.ctx, dh, dh, dnormed);
}

}  // namespace nestling
