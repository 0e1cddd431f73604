#include "model/layers/product.h"

#include "kernels/ops/dequantize.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/largest.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/ops/quantized_experts.h"

namespace nestling {

namespace {

void see(Context& ctx, const Weight& w, ConstView x) {
  if (w.largest_input) largest(ctx, {.largest = w.largest_input, .x = x});
}

int64_t columns(const Weight& w) {
  return w.dim(w.rank() - 1) * (w.dtype() == DType::kU8 ? 2 : 1);
}

// What the codes of w stand for, in scratch.
View values_of(Context& ctx, const Weight& w, DType type) {
  Arena& scratch = ctx.scratch();
  const bool stack = w.rank() == 3;
  const View to = stack ? scratch.alloc(type, {w.dim(0), w.dim(1), columns(w)})
                        : scratch.alloc(type, {w.dim(0), columns(w)});
  dequantize(ctx, {.y = to,
                   .codes = w.stored,
                   .block_scales = w.block_scales,
                   .expert_scales = stack ? w.expert_scales : ConstView(),
                   .scale = w.scale});
  return to;
}

// And those that x becomes beside w.
View values_of_input(Context& ctx, ConstView x, const Weight& w) {
  Arena& scratch = ctx.scratch();
  const int64_t rows = x.dim(0), k = x.dim(1);
  const View to = scratch.alloc(x.dtype(), {rows, k});
  const Arena::Mark mark(scratch);
  if (w.dtype() == DType::kU8) {
    const View codes = scratch.alloc(DType::kU8, {rows, k / 2});
    const View blocks = scratch.alloc(DType::kF8E4M3, {rows, k / kNvfp4Block});
    nvfp4_quantize(ctx, {.codes = codes, .scales = blocks, .x = x, .scale = w.input_scale});
    dequantize(ctx, {.y = to, .codes = codes, .block_scales = blocks, .scale = w.input_scale});
  } else {
    const View codes = scratch.alloc(DType::kF8E4M3, {rows, k});
    fp8_quantize(ctx, {.codes = codes, .x = x, .scale = w.input_scale});
    dequantize(ctx, {.y = to, .codes = codes, .scale = w.input_scale});
  }
  return to;
}

}  // namespace

void product(Context& ctx, const Product& a) {
  see(ctx, a.w, a.x);
  if (a.w.dtype() == DType::kF8E4M3)
    fp8_linear(ctx, {.y = a.y,
                     .x = a.x,
                     .w = a.w.stored,
                     .input_scale = a.w.input_scale,
                     .weight_scale = a.w.scale,
                     .accumulate = a.accumulate});
  else if (a.w.dtype() == DType::kU8)
    nvfp4_linear(ctx, {.y = a.y,
                       .x = a.x,
                       .w = {a.w.stored, a.w.block_scales, a.w.scale},
                       .input_scale = a.w.input_scale,
                       .accumulate = a.accumulate});
  else
    linear_forward(ctx, {.y = a.y, .x = a.x, .w = a.w, .accumulate = a.accumulate});
}

void expert_product(Context& ctx, const ExpertProduct& a) {
  see(ctx, a.w, a.x);
  if (a.w.quantized())
    quantized_expert_linear(ctx, {.y = a.y,
                                  .x = a.x,
                                  .codes = a.w.stored,
                                  .block_scales = a.w.block_scales,
                                  .scales = a.w.expert_scales,
                                  .offsets = a.offsets,
                                  .input_scale = a.w.input_scale});
  else
    expert_linear_forward(ctx, {.y = a.y, .x = a.x, .w = a.w, .offsets = a.offsets});
}

void product_backward(Context& ctx, const ProductBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const bool codes = a.w.quantized();
  linear_backward(ctx, {.dx = a.dx,
                        .dw = a.dw,
                        .dy = a.dy,
                        .x = codes && a.dw ? values_of_input(ctx, a.x, a.w) : a.x,
                        .w = codes ? values_of(ctx, a.w, a.x.dtype()) : ConstView(a.w),
                        .accumulate_dx = a.accumulate_dx,
                        .accumulate_dw = a.accumulate_dw});
}

void expert_product_backward(Context& ctx, const ExpertProductBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const bool codes = a.w.quantized();
  expert_linear_backward(ctx, {.dx = a.dx,
                               .dw = a.dw,
                               .dy = a.dy,
                               .x = codes && a.dw ? values_of_input(ctx, a.x, a.w) : a.x,
                               .w = codes ? values_of(ctx, a.w, a.x.dtype()) : ConstView(a.w),
                               .offsets = a.offsets,
                               .accumulate_dw = a.accumulate_dw});
}

}  // namespace nestling
