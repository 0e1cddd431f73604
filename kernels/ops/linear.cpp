#include "kernels/ops/linear.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

// x [T, K], w [N, K], y [T, N]: what the forward and the backward have in common.
void check_product(Context& ctx, const char* op, const char* y_name, ConstView y, ConstView x,
                   ConstView w) {
  NESTLING_CHECK(x.rank() == 2 && w.rank() == 2 && y.rank() == 2, op, ": ", y_name, " ",
                 y.describe(), " = x ", x.describe(), " w ", w.describe(),
                 "^T, needs [T, N] = [T, K] [N, K]^T");
  NESTLING_CHECK(w.dim(0) > 0 && w.dim(1) > 0, op, ": w ", w.describe(), " is empty");
  check_shape(op, "x", x, {y.dim(0), w.dim(1)});
  check_shape(op, y_name, y, {y.dim(0), w.dim(0)});
  check_device(ctx, op, {y, x, w});
}

// w f32: everything f32. w bf16: the activations are f32 or bf16, each for itself.
void check_activation(const char* op, const char* name, ConstView v, ConstView w) {
  if (!v) return;
  if (w.dtype() == DType::kF32) return check_dtype(op, name, v, DType::kF32);
  check_dtype(op, "w", w, DType::kBF16);
  NESTLING_CHECK(v.dtype() == DType::kF32 || v.dtype() == DType::kBF16, op, ": ", name, " is ",
                 v.describe(), ", needs f32 or bf16");
}

// x may be bf16 beside an f32 w too, but on the CPU.
void check_input(const Context& ctx, const char* op, ConstView x, ConstView w) {
  const bool widened = x.dtype() == DType::kBF16 && w.dtype() == DType::kF32;
  if (!widened || ctx.device() == Device::kCpu) check_activation(op, "x", x, w);
}

void check_accumulate(const char* op, const char* name, ConstView v, bool accumulate) {
  if (accumulate) check_dtype(op, name, v, DType::kF32);
}

double flops(ConstView y, ConstView w) {
  return 2.0 * static_cast<double>(y.dim(0)) * static_cast<double>(w.size());
}
double bytes(std::initializer_list<ConstView> views) {
  double sum = 0;
  for (const ConstView& v : views) sum += static_cast<double>(v.bytes());
  return sum;
}

}  // namespace

void linear_forward(Context& ctx, const LinearForward& a) {
  constexpr const char* kOp = "linear_forward";
  check_product(ctx, kOp, "y", a.y, a.x, a.w);
  check_input(ctx, kOp, a.x, a.w);
  check_activation(kOp, "y", a.y, a.w);
  check_accumulate(kOp, "y", a.y, a.accumulate);
  check_shape(kOp, "bias", a.bias, {a.w.dim(0)});
  check_dtype(kOp, "bias", a.bias, DType::kF32);
  check_device(ctx, kOp, {a.bias});
  ctx.count(kOp, flops(a.y, a.w), bytes({a.y, a.x, a.w, a.bias}));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void linear_backward(Context& ctx, const LinearBackward& a) {
  constexpr const char* kOp = "linear_backward";
  check_product(ctx, kOp, "dy", a.dy, a.x, a.w);
  NESTLING_CHECK(!a.dx || same_shape(a.dx, a.x), kOp, ": dx is ", a.dx.describe(), ", x is ",
                 a.x.describe());
  NESTLING_CHECK(!a.dw || same_shape(a.dw, a.w), kOp, ": dw is ", a.dw.describe(), ", w is ",
                 a.w.describe());
  check_input(ctx, kOp, a.x, a.w);
  check_activation(kOp, "dy", a.dy, a.w);
  check_activation(kOp, "dx", a.dx, a.w);
  check_accumulate(kOp, "dx", a.dx, a.accumulate_dx);
  check_shape(kOp, "dbias", a.dbias, {a.w.dim(0)});
  check_dtype(kOp, "dw", a.dw, DType::kF32);
  check_dtype(kOp, "dbias", a.dbias, DType::kF32);
  check_device(ctx, kOp, {a.dx, a.dw, a.dbias});
  double products = 0;
  double moved = bytes({a.dy, a.dbias});
  if (a.dx) {
    products += 1;
    moved += bytes({a.w, a.dx});
  }
  if (a.dw) {
    products += 1;
    moved += bytes({a.x, a.dw}) + (a.accumulate_dw ? bytes({a.dw}) : 0);
  }
  ctx.count(kOp, products * flops(a.dy, a.w), moved);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
