#include "kernels/ops/quantized_experts.h"

#include "kernels/ops/code_operands.h"
#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

constexpr const char* kOp = "quantized_expert_linear";

// The K of the weights.
int64_t check_weights(const QuantizedExpertLinear& a) {
  NESTLING_CHECK(a.codes.rank() == 3 && a.codes.size() > 0, kOp, ": codes are ", a.codes.describe(),
                 ", need three dims of one or more");
  const int64_t experts = a.codes.dim(0);
  check_shape(kOp, "scales", a.scales, {experts});
  check_dtype(kOp, "scales", a.scales, DType::kF32);
  if (a.codes.dtype() != DType::kU8) {
    check_dtype(kOp, "codes", a.codes, DType::kF8E4M3);
    NESTLING_CHECK(!a.block_scales, kOp, ": block_scales ", a.block_scales.describe(),
                   " beside codes ", a.codes.describe(), ": FP8 has none");
    return a.codes.dim(2);
  }
  const int64_t k = 2 * a.codes.dim(2);
  check_nvfp4_columns(kOp, k);
  NESTLING_CHECK(a.block_scales, kOp, ": codes ", a.codes.describe(),
                 " without block_scales: NVFP4 has them");
  check_shape(kOp, "block_scales", a.block_scales, {experts, a.codes.dim(1), k / kNvfp4Block});
  check_dtype(kOp, "block_scales", a.block_scales, DType::kF8E4M3);
  return k;
}

}  // namespace

void quantized_expert_linear(Context& ctx, const QuantizedExpertLinear& a) {
  NESTLING_CHECK(a.x.rank() == 2 && a.y.rank() == 2 && a.scales && a.offsets, kOp, ": y ",
                 a.y.describe(), ", x ", a.x.describe(), ", scales ", a.scales.describe(),
                 ", offsets ", a.offsets.describe(), ", needs [R, N], [R, K], [E] and [E+1]");
  const int64_t k = check_weights(a);
  check_shape(kOp, "x", a.x, {a.y.dim(0), k});
  check_shape(kOp, "y", a.y, {a.x.dim(0), a.codes.dim(1)});
  check_shape(kOp, "offsets", a.offsets, {a.codes.dim(0) + 1});
  check_dtype(kOp, "offsets", a.offsets, DType::kI32);
  check_beside_codes(ctx, kOp, "x", a.x);
  check_beside_codes(ctx, kOp, "y", a.y);
  (a.block_scales ? check_nvfp4_scale : check_fp8_scale)(kOp, "input_scale", a.input_scale);
  check_device(ctx, kOp, {a.y, a.x, a.codes, a.block_scales, a.scales, a.offsets});
  const int64_t bytes = a.y.bytes() + a.x.bytes() + a.codes.bytes() + a.block_scales.bytes() +
                        a.scales.bytes() + a.offsets.bytes();
  const double flops = 2.0 * static_cast<double>(a.y.size()) * static_cast<double>(k);
  ctx.count(kOp, flops, static_cast<double>(bytes));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
