#include "kernels/ops/rms_norm.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_common(Context& ctx, const char* op, ConstView x, ConstView w, ConstView rstd,
                  ConstView active) {
  NESTLING_CHECK(x.rank() == 2, op, ": x is ", x.describe(), ", needs [T, D]");
  check_shape(op, "w", w, {x.dim(1)});
  check_shape(op, "rstd", rstd, {x.dim(0)});
  check_shape(op, "active", active, {1});
  for (const auto& v : {x, w, rstd, active}) check_dtype(op, "operand", v, DType::kF32);
  check_device(ctx, op, {x, w, rstd, active});
}

}  // namespace

void rms_norm_forward(Context& ctx, const RmsNormForward& a) {
  constexpr const char* kOp = "rms_norm_forward";
  check_common(ctx, kOp, a.x, a.w, a.rstd, a.active);
  NESTLING_CHECK(same_shape(a.y, a.x), kOp, ": y is ", a.y.describe(), ", x is ", a.x.describe());
  check_activations(ctx, kOp, {a.y});
  check_device(ctx, kOp, {a.y});
  const auto n = static_cast<double>(a.x.size());
  ctx.count(kOp, 4 * n, static_cast<double>(a.x.bytes() + a.y.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void rms_norm_backward(Context& ctx, const RmsNormBackward& a) {
  constexpr const char* kOp = "rms_norm_backward";
  check_common(ctx, kOp, a.x, a.w, a.rstd, a.active);
  NESTLING_CHECK(same_shape(a.dx, a.x) && same_shape(a.dy, a.x), kOp, ": dx is ", a.dx.describe(),
                 ", dy is ", a.dy.describe(), ", x is ", a.x.describe());
  NESTLING_CHECK(!a.dactive || a.active, kOp, ": dactive without active");
  check_shape(kOp, "dw", a.dw, {a.x.dim(1)});
  check_shape(kOp, "dactive", a.dactive, {1});
  for (const ConstView& v : {ConstView(a.dx), ConstView(a.dw), ConstView(a.dactive), a.dy})
    check_dtype(kOp, "operand", v, DType::kF32);
  check_device(ctx, kOp, {a.dx, a.dw, a.dactive, a.dy});
  const auto n = static_cast<double>(a.x.size());
  ctx.count(kOp, 9 * n, 12 * n);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
