#include "kernels/ops/sum.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

void add_sum(Context& ctx, const AddSum& a) {
  constexpr const char* kOp = "add_sum";
  NESTLING_CHECK(a.x.rank() == 1, kOp, ": x is ", a.x.describe(), ", needs [T]");
  check_shape(kOp, "total", a.total, {1});
  check_dtype(kOp, "total", a.total, DType::kF64);
  check_dtype(kOp, "x", a.x, DType::kF32);
  check_device(ctx, kOp, {a.total, a.x});
  ctx.count(kOp, static_cast<double>(a.x.size()), static_cast<double>(a.x.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void count_rows(Context& ctx, const CountRows& a) {
  constexpr const char* kOp = "count_rows";
  NESTLING_CHECK(a.counts.rank() == 1, kOp, ": counts is ", a.counts.describe(), ", needs [E]");
  check_shape(kOp, "offsets", a.offsets, {a.counts.dim(0) + 1});
  check_dtype(kOp, "counts", a.counts, DType::kF64);
  check_dtype(kOp, "offsets", a.offsets, DType::kI32);
  check_device(ctx, kOp, {a.counts, a.offsets});
  ctx.count(kOp, static_cast<double>(a.counts.size()), static_cast<double>(a.counts.bytes()));
  dispatch(ctx, a, cpu::run, cuda::run);
}

namespace cpu {

void run(Context&, const AddSum& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.x.size(); ++i) sum += a.x.ptr<float>()[i];
  *a.total.ptr<double>() += sum;
}

void run(Context&, const CountRows& a) {
  const auto* offsets = a.offsets.ptr<int32_t>();
  for (int64_t e = 0; e < a.counts.size(); ++e)
    a.counts.ptr<double>()[e] += offsets[e + 1] - offsets[e];
}

}  // namespace cpu

}  // namespace nestling
