#include "kernels/ops/conv1d.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

struct Common {
  ConstView x, w, bias, state;
  int64_t sequences;
};

void check_common(Context& ctx, const char* op, const Common& c) {
  NESTLING_CHECK(c.x.rank() == 2, op, ": x is ", c.x.describe(), ", needs [T, C]");
  NESTLING_CHECK(c.w.rank() == 2 && c.w.dim(0) == c.x.dim(1) && c.w.dim(1) >= 1, op, ": w is ",
                 c.w.describe(), ", needs [C, K] with C ", c.x.dim(1), " and K >= 1");
  check_shape(op, "bias", c.bias, {c.x.dim(1)});
  check_shape(op, "state", c.state, {c.sequences, c.x.dim(1), c.w.dim(1) - 1});
  for (const ConstView& v : {c.w, c.bias, c.state}) check_dtype(op, "operand", v, DType::kF32);
  check_device(ctx, op, {c.x, c.w, c.bias, c.state});
}

void check_output(Context& ctx, const char* op, const char* name, View out, ConstView like) {
  NESTLING_CHECK(same_shape(out, like), op, ": ", name, " is ", out.describe(), ", needs ",
                 like.describe());
  check_device(ctx, op, {out});
}

void check_apart(const char* op, ConstView out, ConstView in) {
  NESTLING_CHECK(out.data() == nullptr || out.data() != in.data(), op,
                 ": the output may not be the input: a tap would read what was just written");
}

// K products and sums a channel; the activation is some 10 more.
double flops(ConstView x, ConstView w) {
  return static_cast<double>(x.size()) * (2.0 * static_cast<double>(w.dim(1)) + 10.0);
}

}  // namespace

void conv1d_forward(Context& ctx, const Conv1dForward& a) {
  constexpr const char* kOp = "conv1d_forward";
  check_common(ctx, kOp, {a.x, a.w, a.bias, a.final_state, a.segments.count()});
  check_common(ctx, kOp, {a.x, a.w, a.bias, a.initial, a.segments.count()});
  check_output(ctx, kOp, "y", a.y, a.x);
  check_activations(ctx, kOp, {a.y, a.x});
  check_apart(kOp, a.y, a.x);
  NESTLING_CHECK(a.segments.tokens() == a.x.dim(0), kOp, ": the segments hold ",
                 a.segments.tokens(), " tokens, x is ", a.x.describe());
  ctx.count(kOp, flops(a.x, a.w), static_cast<double>(a.x.bytes() + a.y.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void conv1d_backward(Context& ctx, const Conv1dBackward& a) {
  constexpr const char* kOp = "conv1d_backward";
  check_common(ctx, kOp, {a.x, a.w, a.bias, {}, a.segments.count()});
  check_output(ctx, kOp, "dx", a.dx, a.x);
  NESTLING_CHECK(same_shape(a.dy, a.x), kOp, ": dy is ", a.dy.describe(), ", x is ",
                 a.x.describe());
  check_apart(kOp, a.dx, a.dy);
  check_apart(kOp, a.dx, a.x);
  check_activations(ctx, kOp, {a.dx, a.dy, a.x});
  check_output(ctx, kOp, "dw", a.dw, a.w);
  check_shape(kOp, "dbias", a.dbias, {a.x.dim(1)});
  for (const View& v : {a.dw, a.dbias}) check_dtype(kOp, "dw or dbias", v, DType::kF32);
  check_device(ctx, kOp, {a.dy, a.dbias});
  NESTLING_CHECK(a.segments.tokens() == a.x.dim(0), kOp, ": the segments hold ",
                 a.segments.tokens(), " tokens, x is ", a.x.describe());
  ctx.count(kOp, 3.0 * flops(a.x, a.w),
            static_cast<double>(a.x.bytes() + a.dy.bytes() + a.dx.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void conv1d_step(Context& ctx, const Conv1dStep& a) {
  constexpr const char* kOp = "conv1d_step";
  NESTLING_CHECK(static_cast<bool>(a.state), kOp, ": needs a state");
  check_common(ctx, kOp, {a.x, a.w, a.bias, a.state, a.x.rank() == 2 ? a.x.dim(0) : 0});
  check_output(ctx, kOp, "y", a.y, a.x);
  for (const ConstView& v : {ConstView(a.y), a.x}) check_dtype(kOp, "operand", v, DType::kF32);
  ctx.count(kOp, flops(a.x, a.w),
            static_cast<double>(a.x.bytes() + a.y.bytes() + 2 * a.state.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
