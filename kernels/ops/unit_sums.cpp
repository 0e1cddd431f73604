#include "kernels/ops/unit_sums.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_rows(const char* op, const char* name, ConstView v) {
  NESTLING_CHECK(v.rank() == 2, op, ": ", name, " is ", v.describe(), ", needs rank 2");
}

// Two streams [T, D] and the sum of something of both.
void check_pair(Context& ctx, const char* op, View sum, ConstView a, ConstView b) {
  check_rows(op, "a", a);
  check_shape(op, "b", b, {a.dim(0), a.dim(1)});
  check_shape(op, "sum", sum, {1});
  check_dtype(op, "a", a, DType::kF32);
  check_dtype(op, "b", b, DType::kF32);
  check_dtype(op, "sum", sum, DType::kF64);
  check_device(ctx, op, {sum, a, b});
}

double bytes_of(ConstView v) {
  return static_cast<double>(v.bytes());
}

}  // namespace

void add_magnitudes(Context& ctx, const MagnitudeSums& a) {
  constexpr const char* kOp = "add_magnitudes";
  check_rows(kOp, "x", a.x);
  if (a.offsets) {
    NESTLING_CHECK(a.offsets.rank() == 1 && a.offsets.dim(0) > 1, kOp, ": offsets is ",
                   a.offsets.describe(), ", needs [E+1]");
    check_shape(kOp, "sums", a.sums, {a.offsets.dim(0) - 1, a.x.dim(1)});
  } else {
    check_shape(kOp, "sums", a.sums, {a.x.dim(1)});
  }
  check_dtype(kOp, "sums", a.sums, DType::kF64);
  check_dtype(kOp, "offsets", a.offsets, DType::kI32);
  check_activations(ctx, kOp, {a.x});
  check_device(ctx, kOp, {a.sums, a.x, a.offsets});
  ctx.count(kOp, static_cast<double>(a.x.size()), bytes_of(a.x) + 2 * bytes_of(a.sums));
  if (a.x.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

void add_expert_norms(Context& ctx, const ExpertNormSums& a) {
  constexpr const char* kOp = "add_expert_norms";
  check_rows(kOp, "rows", a.rows);
  check_rows(kOp, "weight", a.weight);
  NESTLING_CHECK(a.weight.size() == a.rows.dim(0), kOp, ": weight is ", a.weight.describe(),
                 ", rows ", a.rows.describe(), ": needs one a row");
  NESTLING_CHECK(a.sums.rank() == 1, kOp, ": sums is ", a.sums.describe(), ", needs [E]");
  check_shape(kOp, "order", a.order, {a.rows.dim(0)});
  check_shape(kOp, "offsets", a.offsets, {a.sums.dim(0) + 1});
  check_dtype(kOp, "sums", a.sums, DType::kF64);
  check_dtype(kOp, "weight", a.weight, DType::kF32);
  for (const ConstView& v : {a.order, a.offsets})
    check_dtype(kOp, "order or offsets", v, DType::kI32);
  check_activations(ctx, kOp, {a.rows});
  check_device(ctx, kOp, {a.sums, a.rows, a.weight, a.order, a.offsets});
  ctx.count(kOp, 2 * static_cast<double>(a.rows.size()), bytes_of(a.rows) + bytes_of(a.weight));
  if (a.rows.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

void add_cosine_distances(Context& ctx, const CosineDistanceSum& a) {
  constexpr const char* kOp = "add_cosine_distances";
  check_pair(ctx, kOp, a.sum, a.a, a.b);
  ctx.count(kOp, 6 * static_cast<double>(a.a.size()), bytes_of(a.a) + bytes_of(a.b));
  if (a.a.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

void add_products(Context& ctx, const ProductSum& a) {
  constexpr const char* kOp = "add_products";
  check_pair(ctx, kOp, a.sum, a.a, a.b);
  ctx.count(kOp, 2 * static_cast<double>(a.a.size()), bytes_of(a.a) + bytes_of(a.b));
  if (a.a.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
