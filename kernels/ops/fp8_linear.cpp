#include "kernels/ops/fp8_linear.h"

#include <cmath>

#include "kernels/ops/code_operands.h"
#include "kernels/ops/dispatch.h"

namespace nestling {

void fp8_linear(Context& ctx, const Fp8Linear& a) {
  constexpr const char* kOp = "fp8_linear";
  NESTLING_CHECK(a.x.rank() == 2 && a.w.rank() == 2 && a.y.rank() == 2, kOp, ": y ", a.y.describe(),
                 " = x ", a.x.describe(), " w ", a.w.describe(),
                 "^T, needs [T, N] = [T, K] [N, K]^T");
  NESTLING_CHECK(a.w.dim(0) > 0 && a.w.dim(1) > 0, kOp, ": w ", a.w.describe(), " is empty");
  check_shape(kOp, "x", a.x, {a.y.dim(0), a.w.dim(1)});
  check_shape(kOp, "y", a.y, {a.y.dim(0), a.w.dim(0)});
  check_dtype(kOp, "w", a.w, DType::kF8E4M3);
  check_beside_codes(ctx, kOp, "x", a.x);
  check_beside_codes(ctx, kOp, "y", a.y);
  if (a.accumulate) check_dtype(kOp, "y", a.y, DType::kF32);
  check_fp8_scale(kOp, "input_scale", a.input_scale);
  check_fp8_scale(kOp, "weight_scale", a.weight_scale);
  NESTLING_CHECK_INPUT(std::isnormal(fp8_product_scale(a)), kOp, ": input_scale ", a.input_scale,
                       " times weight_scale ", a.weight_scale, " is no normal f32");
  check_device(ctx, kOp, {a.y, a.x, a.w});
  const double flops = 2.0 * static_cast<double>(a.y.dim(0)) * static_cast<double>(a.w.size());
  ctx.count(kOp, flops, static_cast<double>(a.y.bytes() + a.x.bytes() + a.w.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void fp8_quantize(Context& ctx, const Fp8Quantize& a) {
  constexpr const char* kOp = "fp8_quantize";
  NESTLING_CHECK(same_shape(a.codes, a.x), kOp, ": codes are ", a.codes.describe(), ", x is ",
                 a.x.describe());
  check_dtype(kOp, "codes", a.codes, DType::kF8E4M3);
  check_beside_codes(ctx, kOp, "x", a.x);
  check_fp8_scale(kOp, "scale", a.scale);
  check_device(ctx, kOp, {a.codes, a.x});
  ctx.count(kOp, 0, static_cast<double>(a.codes.bytes() + a.x.bytes()));
  if (a.x.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
