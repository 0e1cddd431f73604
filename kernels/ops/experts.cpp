#include "kernels/ops/experts.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

double total_bytes(std::initializer_list<ConstView> views) {
  double sum = 0;
  for (const ConstView& v : views) sum += static_cast<double>(v.bytes());
  return sum;
}

void check_f32(const char* op, std::initializer_list<ConstView> views) {
  for (const ConstView& v : views) check_dtype(op, "operand", v, DType::kF32);
}

// rows [R, D], tokens [T, D], order [R] with R = T * k.
void check_route(const char* op, ConstView rows, ConstView tokens, ConstView order) {
  NESTLING_CHECK(rows.rank() == 2 && tokens.rank() == 2 && rows.dim(1) == tokens.dim(1), op,
                 ": rows ", rows.describe(), " and tokens ", tokens.describe(),
                 ", needs [R, D] and [T, D]");
  check_shape(op, "order", order, {rows.dim(0)});
  check_dtype(op, "order", order, DType::kI32);
  const bool whole = tokens.dim(0) == 0 ? rows.dim(0) == 0 : rows.dim(0) % tokens.dim(0) == 0;
  NESTLING_CHECK(whole, op, ": ", rows.dim(0), " rows are not a whole number for each of ",
                 tokens.dim(0), " tokens");
}

void check_weight(const char* op, ConstView weight, ConstView rows, ConstView tokens) {
  NESTLING_CHECK(
      weight.rank() == 2 && weight.dim(0) == tokens.dim(0) && weight.size() == rows.dim(0), op,
      ": weight ", weight.describe(), " for ", rows.dim(0), " rows of ", tokens.dim(0),
      " tokens, needs [T, k]");
}

// x [R, K], w [E, N, K], y [R, N], offsets [E+1].
void check_product(Context& ctx, const char* op, ConstView y, ConstView x, ConstView w,
                   ConstView offsets) {
  NESTLING_CHECK(x.rank() == 2 && w.rank() == 3 && y.rank() == 2, op, ": y ", y.describe(), ", x ",
                 x.describe(), ", w ", w.describe(), ", needs [R, N], [R, K] and [E, N, K]");
  NESTLING_CHECK(w.size() > 0, op, ": w ", w.describe(), " is empty");
  check_shape(op, "x", x, {y.dim(0), w.dim(2)});
  check_shape(op, "y", y, {x.dim(0), w.dim(1)});
  check_shape(op, "offsets", offsets, {w.dim(0) + 1});
  check_dtype(op, "offsets", offsets, DType::kI32);
  check_activations(ctx, op, {x, y});
  if (w.dtype() != DType::kBF16) check_f32(op, {w, x});
  check_device(ctx, op, {y, x, w, offsets});
}

}  // namespace

void expert_sort(Context& ctx, const ExpertSort& a) {
  constexpr const char* kOp = "expert_sort";
  NESTLING_CHECK(a.index.rank() == 2 && a.offsets.rank() == 1 && a.offsets.dim(0) >= 2, kOp,
                 ": index ", a.index.describe(), ", offsets ", a.offsets.describe(),
                 ", needs [T, k] and [E+1]");
  check_shape(kOp, "order", a.order, {a.index.size()});
  for (const ConstView& v : {a.index, ConstView(a.offsets), ConstView(a.order)})
    check_dtype(kOp, "operand", v, DType::kI32);
  const double bytes = total_bytes({a.index, a.offsets, a.order});
  check_device(ctx, kOp, {a.index, a.offsets, a.order});
  ctx.count(kOp, 0, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_gather(Context& ctx, const ExpertGather& a) {
  constexpr const char* kOp = "expert_gather";
  check_route(kOp, a.rows, a.x, a.order);
  check_activations(ctx, kOp, {a.rows, a.x});
  const double bytes = total_bytes({a.rows, a.x, a.order});
  check_device(ctx, kOp, {a.rows, a.x, a.order});
  ctx.count(kOp, 0, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_combine(Context& ctx, const ExpertCombine& a) {
  constexpr const char* kOp = "expert_combine";
  check_route(kOp, a.rows, a.y, a.order);
  check_weight(kOp, a.weight, a.rows, a.y);
  check_activations(ctx, kOp, {a.rows});
  check_f32(kOp, {a.y, a.weight});
  const double bytes = total_bytes({a.y, a.rows, a.weight, a.order});
  const double flops = 2.0 * static_cast<double>(a.rows.size());
  check_device(ctx, kOp, {a.y, a.rows, a.weight, a.order});
  ctx.count(kOp, flops, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_combine_backward(Context& ctx, const ExpertCombineBackward& a) {
  constexpr const char* kOp = "expert_combine_backward";
  check_route(kOp, a.rows, a.dy, a.order);
  check_weight(kOp, a.weight, a.rows, a.dy);
  NESTLING_CHECK(same_shape(a.drows, a.rows) && same_shape(a.dweight, a.weight), kOp, ": drows ",
                 a.drows.describe(), " for rows ", a.rows.describe(), ", dweight ",
                 a.dweight.describe(), " for weight ", a.weight.describe());
  check_activations(ctx, kOp, {a.drows, a.rows});
  check_f32(kOp, {a.dweight, a.dy, a.weight});
  const double bytes = total_bytes({a.drows, a.dweight, a.dy, a.rows, a.weight, a.order});
  const double flops = 3.0 * static_cast<double>(a.rows.size());
  check_device(ctx, kOp, {a.drows, a.dweight, a.dy, a.rows, a.weight, a.order});
  ctx.count(kOp, flops, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_gather_backward(Context& ctx, const ExpertGatherBackward& a) {
  constexpr const char* kOp = "expert_gather_backward";
  check_route(kOp, a.drows, a.dx, a.order);
  check_activations(ctx, kOp, {a.drows});
  check_f32(kOp, {a.dx});
  const double bytes = total_bytes({a.dx, a.drows, a.order});
  const double flops = static_cast<double>(a.drows.size());
  check_device(ctx, kOp, {a.dx, a.drows, a.order});
  ctx.count(kOp, flops, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_linear_forward(Context& ctx, const ExpertLinearForward& a) {
  constexpr const char* kOp = "expert_linear_forward";
  check_product(ctx, kOp, a.y, a.x, a.w, a.offsets);
  const double flops = 2.0 * static_cast<double>(a.y.size()) * static_cast<double>(a.w.dim(2));
  const double bytes = total_bytes({a.y, a.x, a.w, a.offsets});
  ctx.count(kOp, flops, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void expert_linear_backward(Context& ctx, const ExpertLinearBackward& a) {
  constexpr const char* kOp = "expert_linear_backward";
  check_product(ctx, kOp, a.dy, a.x, a.w, a.offsets);
  NESTLING_CHECK(same_shape(a.dx, a.x), kOp, ": dx is ", a.dx.describe(), ", x is ",
                 a.x.describe());
  NESTLING_CHECK(!a.dw || same_shape(a.dw, a.w), kOp, ": dw is ", a.dw.describe(), ", w is ",
                 a.w.describe());
  check_activations(ctx, kOp, {a.dx, a.dy});
  check_f32(kOp, {a.dw});
  const double one = 2.0 * static_cast<double>(a.dy.size()) * static_cast<double>(a.w.dim(2));
  const double bytes = total_bytes({a.dy, a.w, a.dx}) + (a.dw ? total_bytes({a.x, a.dw}) : 0) +
                       (a.dw && a.accumulate_dw ? total_bytes({a.dw}) : 0);
  check_device(ctx, kOp, {a.dx, a.dw});
  ctx.count(kOp, a.dw ? 2 * one : one, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
