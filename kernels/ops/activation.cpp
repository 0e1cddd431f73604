#include "kernels/ops/activation.h"

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

template <class Args>
void dispatch(Context& ctx, const char* op, const Args& a, double flops, double bytes) {
  ctx.count(op, flops, bytes);
  switch (ctx.code()) {
    case Device::kCpu:
      return cpu::run(ctx, a);
    case Device::kCuda:
      return cuda::run(ctx, a);
    case Device::kNull:
      return;
  }
}

}  // namespace

void squared_relu_forward(Context& ctx, const SquaredReluForward& a) {
  constexpr const char* kOp = "squared_relu_forward";
  check_alike(ctx, kOp, {a.y, a.x});
  const auto n = static_cast<double>(a.x.size());
  const auto bytes = static_cast<double>(a.x.bytes());
  dispatch(ctx, kOp, a, 2 * n, 2 * bytes);
}

void squared_relu_backward(Context& ctx, const SquaredReluBackward& a) {
  constexpr const char* kOp = "squared_relu_backward";
  check_alike(ctx, kOp, {a.dx, a.dy, a.x});
  const auto n = static_cast<double>(a.x.size());
  const auto bytes = static_cast<double>(a.x.bytes());
  dispatch(ctx, kOp, a, 3 * n, 3 * bytes);
}

void gated_silu_forward(Context& ctx, const GatedSiluForward& a) {
  constexpr const char* kOp = "gated_silu_forward";
  check_alike(ctx, kOp, {a.y, a.gate, a.up});
  const auto n = static_cast<double>(a.y.size());
  const auto bytes = static_cast<double>(a.y.bytes());
  dispatch(ctx, kOp, a, 5 * n, 3 * bytes);  // the exponential counts as one
}

void gated_silu_backward(Context& ctx, const GatedSiluBackward& a) {
  constexpr const char* kOp = "gated_silu_backward";
  check_alike(ctx, kOp, {a.dgate, a.dup, a.dy, a.gate, a.up});
  const auto n = static_cast<double>(a.dy.size());
  const auto bytes = static_cast<double>(a.dy.bytes());
  dispatch(ctx, kOp, a, 11 * n, 5 * bytes);
}

}  // namespace nestling
