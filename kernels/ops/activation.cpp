#include "kernels/ops/activation.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

// Every operand of an activation is [T, F], like the first.
void check_alike(Context& ctx, const char* op, std::initializer_list<ConstView> views) {
  const ConstView first = *views.begin();
  NESTLING_CHECK(first.rank() == 2, op, ": an operand is ", first.describe(), ", needs [T, F]");
  for (const ConstView& v : views)
    NESTLING_CHECK(same_shape(v, first), op, ": operands ", first.describe(), " and ", v.describe(),
                   " differ in shape");
  check_activations(ctx, op, views);
  check_device(ctx, op, views);
}

}  // namespace

void squared_relu_forward(Context& ctx, const SquaredReluForward& a) {
  constexpr const char* kOp = "squared_relu_forward";
  check_alike(ctx, kOp, {a.y, a.x});
  const auto n = static_cast<double>(a.x.size());
  const auto bytes = static_cast<double>(a.x.bytes());
  ctx.count(kOp, 2 * n, 2 * bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void squared_relu_backward(Context& ctx, const SquaredReluBackward& a) {
  constexpr const char* kOp = "squared_relu_backward";
  check_alike(ctx, kOp, {a.dx, a.dy, a.x});
  const auto n = static_cast<double>(a.x.size());
  const auto bytes = static_cast<double>(a.x.bytes());
  ctx.count(kOp, 3 * n, 3 * bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void gated_silu_forward(Context& ctx, const GatedSiluForward& a) {
  constexpr const char* kOp = "gated_silu_forward";
  check_alike(ctx, kOp, {a.y, a.gate, a.up});
  const auto n = static_cast<double>(a.y.size());
  const auto bytes = static_cast<double>(a.y.bytes());
  ctx.count(kOp, 5 * n, 3 * bytes);  // the exponential counts as one
  dispatch(ctx, a, cpu::run, cuda::run);
}

void gated_silu_backward(Context& ctx, const GatedSiluBackward& a) {
  constexpr const char* kOp = "gated_silu_backward";
  check_alike(ctx, kOp, {a.dgate, a.dup, a.dy, a.gate, a.up});
  const auto n = static_cast<double>(a.dy.size());
  const auto bytes = static_cast<double>(a.dy.bytes());
  ctx.count(kOp, 11 * n, 5 * bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
