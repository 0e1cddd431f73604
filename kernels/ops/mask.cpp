#include "kernels/ops/mask.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_common(Context& ctx, const char* op, ConstView x, ConstView m, int64_t repeat) {
  NESTLING_CHECK(x.rank() == 2, op, ": x is ", x.describe(), ", needs [T, C]");
  NESTLING_CHECK(repeat >= 1 && x.dim(1) % repeat == 0, op, ": repeat ", repeat,
                 " does not divide the ", x.dim(1), " channels of x");
  NESTLING_CHECK(static_cast<bool>(m), op, ": m is missing");
  check_shape(op, "m", m, {x.dim(1) / repeat});
  check_dtype(op, "m", m, DType::kF32);
  check_device(ctx, op, {x, m});
}

}  // namespace

void mask_forward(Context& ctx, const MaskForward& a) {
  constexpr const char* kOp = "mask_forward";
  check_common(ctx, kOp, a.x, a.m, a.repeat);
  NESTLING_CHECK(same_shape(a.y, a.x), kOp, ": y is ", a.y.describe(), ", x is ", a.x.describe());
  check_activations(ctx, kOp, {a.y, a.x});
  check_device(ctx, kOp, {a.y});
  const auto n = static_cast<double>(a.x.size());
  ctx.count(kOp, n, 2 * static_cast<double>(a.x.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void mask_backward(Context& ctx, const MaskBackward& a) {
  constexpr const char* kOp = "mask_backward";
  check_common(ctx, kOp, a.x, a.m, a.repeat);
  NESTLING_CHECK(same_shape(a.dx, a.x) && same_shape(a.dy, a.x), kOp, ": dx is ", a.dx.describe(),
                 ", dy is ", a.dy.describe(), ", x is ", a.x.describe());
  check_shape(kOp, "dm", a.dm, {a.m.dim(0)});
  check_activations(ctx, kOp, {a.dx, a.dy, a.x});
  check_dtype(kOp, "dm", a.dm, DType::kF32);
  check_device(ctx, kOp, {a.dx, a.dm, a.dy});
  const auto n = static_cast<double>(a.x.size());
  ctx.count(kOp, a.dm ? 3 * n : n, (a.dm ? 3 : 2) * static_cast<double>(a.x.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
