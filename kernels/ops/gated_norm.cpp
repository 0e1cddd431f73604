#include "kernels/ops/gated_norm.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_common(Context& ctx, const char* op, ConstView y, ConstView z, ConstView w,
                  ConstView rstd, ConstView active) {
  NESTLING_CHECK(y.rank() == 3 && same_shape(y, z), op, ": y is ", y.describe(), ", z is ",
                 z.describe(), ", both need [T, H, P]");
  NESTLING_CHECK(rstd.rank() == 2 && rstd.dim(0) == y.dim(0) && rstd.dim(1) >= 1 &&
                     y.dim(1) % rstd.dim(1) == 0,
                 op, ": rstd is ", rstd.describe(), ", needs [", y.dim(0), ", G] with G dividing ",
                 y.dim(1), " heads");
  check_shape(op, "w", w, {y.dim(1), y.dim(2)});
  check_shape(op, "active", active, {1});
  for (const ConstView& v : {w, rstd, active}) check_dtype(op, "operand", v, DType::kF32);
  check_device(ctx, op, {y, z, w, rstd, active});
}

void check_like(Context& ctx, const char* op, const char* name, ConstView view, ConstView like) {
  NESTLING_CHECK(same_shape(view, like), op, ": ", name, " is ", view.describe(), ", needs ",
                 like.describe());
  check_device(ctx, op, {view});
}

}  // namespace

void gated_norm_forward(Context& ctx, const GatedNormForward& a) {
  constexpr const char* kOp = "gated_norm_forward";
  check_common(ctx, kOp, a.y, a.z, a.w, a.rstd, a.active);
  check_like(ctx, kOp, "out", a.out, a.y);
  check_activations(ctx, kOp, {a.out, a.y, a.z});
  // Two operands in, one out; the gate's exponential counts as 10.
  const auto n = static_cast<double>(a.y.size());
  ctx.count(kOp, 16 * n, 3 * static_cast<double>(a.y.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void gated_norm_backward(Context& ctx, const GatedNormBackward& a) {
  constexpr const char* kOp = "gated_norm_backward";
  check_common(ctx, kOp, a.y, a.z, a.w, a.rstd, a.active);
  check_like(ctx, kOp, "dy", a.dy, a.y);
  check_like(ctx, kOp, "dz", a.dz, a.y);
  check_like(ctx, kOp, "dout", a.dout, a.y);
  check_activations(ctx, kOp, {a.dy, a.dz, a.dout, a.y, a.z});
  check_like(ctx, kOp, "dw", a.dw, a.w);
  check_dtype(kOp, "dw", a.dw, DType::kF32);
  NESTLING_CHECK(!a.dactive || a.active, kOp, ": dactive without active");
  check_shape(kOp, "dactive", a.dactive, {1});
  check_dtype(kOp, "dactive", a.dactive, DType::kF32);
  check_device(ctx, kOp, {a.dactive});
  const auto n = static_cast<double>(a.y.size());
  ctx.count(kOp, 30 * n, 5 * static_cast<double>(a.y.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
