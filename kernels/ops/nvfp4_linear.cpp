#include "kernels/ops/nvfp4_linear.h"

#include <cmath>

#include "kernels/ops/code_operands.h"
#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_activation(const Context& ctx, const char* op, const char* name, ConstView v) {
  NESTLING_CHECK(v.rank() == 2, op, ": ", name, " is ", v.describe(), ", needs two dims");
  check_beside_codes(ctx, op, name, v);
}

void check_operand(const char* op, ConstView codes, ConstView scales, int64_t rows, int64_t cols) {
  check_nvfp4_columns(op, cols);
  check_dtype(op, "codes", codes, DType::kU8);
  check_dtype(op, "scales", scales, DType::kF8E4M3);
  check_shape(op, "codes", codes, {rows, cols / 2});
  check_shape(op, "scales", scales, {rows, cols / kNvfp4Block});
}

}  // namespace

void nvfp4_linear(Context& ctx, const Nvfp4Linear& a) {
  constexpr const char* kOp = "nvfp4_linear";
  check_activation(ctx, kOp, "x", a.x);
  check_activation(ctx, kOp, "y", a.y);
  NESTLING_CHECK(a.w.codes.rank() == 2 && a.w.codes.size() > 0, kOp, ": codes are ",
                 a.w.codes.describe(), ", need two dims of one or more");
  check_operand(kOp, a.w.codes, a.w.scales, a.w.rows(), a.w.cols());
  check_shape(kOp, "x", a.x, {a.y.dim(0), a.w.cols()});
  check_shape(kOp, "y", a.y, {a.y.dim(0), a.w.rows()});
  if (a.accumulate) check_dtype(kOp, "y", a.y, DType::kF32);
  check_nvfp4_scale(kOp, "input_scale", a.input_scale);
  check_nvfp4_scale(kOp, "the scale of w", a.w.scale);
  NESTLING_CHECK_INPUT(std::isnormal(nvfp4_product_scale(a)), kOp, ": input_scale ", a.input_scale,
                       " times the scale of w ", a.w.scale, " is no normal f32");
  check_device(ctx, kOp, {a.y, a.x, a.w.codes, a.w.scales});
  const auto terms = static_cast<double>(a.w.rows() * a.w.cols());
  const int64_t bytes = a.y.bytes() + a.x.bytes() + a.w.codes.bytes() + a.w.scales.bytes();
  ctx.count(kOp, 2.0 * static_cast<double>(a.y.dim(0)) * terms, static_cast<double>(bytes));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void nvfp4_quantize(Context& ctx, const Nvfp4Quantize& a) {
  constexpr const char* kOp = "nvfp4_quantize";
  check_activation(ctx, kOp, "x", a.x);
  check_operand(kOp, a.codes, a.scales, a.x.dim(0), a.x.dim(1));
  check_nvfp4_scale(kOp, "scale", a.scale);
  check_device(ctx, kOp, {a.codes, a.scales, a.x});
  ctx.count(kOp, 0, static_cast<double>(a.codes.bytes() + a.scales.bytes() + a.x.bytes()));
  if (a.x.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
