#include "model/layers/product.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ops/experts.h"
#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/ops/quantized_experts.h"

namespace nestling {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void see(const Context& ctx, const Weight& w, ConstView x) {
  if (w.largest_input == nullptr) return;
  NESTLING_CHECK(ctx.device() == Device::kCpu,
                 "ranges of activations are taken on the CPU, not on ", device_name(ctx.device()));
  for (int64_t t = 0; t < x.rows(); ++t) {
    const float* row = x.ptr<float>() + t * x.pitch();
    for (int64_t i = 0; i < x.dim(x.rank() - 1); ++i) {
      const float size = std::abs(row[i]);
      *w.largest_input = std::max(*w.largest_input, std::isfinite(size) ? size : kInfinity);
    }
  }
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

}  // namespace nestling
