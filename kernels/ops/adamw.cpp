#include "kernels/ops/adamw.h"

#include <cmath>

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_tensor(Context& ctx, const char* op, const AdamWTensor& t, size_t at) {
  NESTLING_CHECK(t.master.rank() >= 1, op, ": tensor ", at, " has no master weights");
  for (const ConstView& v : {ConstView(t.master), ConstView(t.m), ConstView(t.v), t.grad}) {
    NESTLING_CHECK(same_shape(v, t.master), op, ": tensor ", at, " has operands ", v.describe(),
                   " and ", t.master.describe());
    NESTLING_CHECK(v.dense(), op, ": tensor ", at, ", ", v.describe(), ", is not dense");
    check_dtype(op, "master, m, v or grad", v, DType::kF32);
  }
  NESTLING_CHECK(!t.low || same_shape(t.low, t.master), op, ": tensor ", at, " has low ",
                 t.low.describe(), " of master ", t.master.describe());
  check_dtype(op, "low", t.low, DType::kBF16);
  NESTLING_CHECK(std::isfinite(t.lr) && std::isfinite(t.decay), op, ": tensor ", at, " has lr ",
                 t.lr, " and decay ", t.decay);
  check_device(ctx, op, {t.master, t.m, t.v, t.grad, t.low});
}

}  // namespace

void adamw_step(Context& ctx, const AdamWStep& a) {
  constexpr const char* kOp = "adamw_step";
  NESTLING_CHECK(a.step >= 1, kOp, ": step ", a.step, ", the first is 1");
  NESTLING_CHECK(a.beta1 >= 0 && a.beta1 < 1 && a.beta2 >= 0 && a.beta2 < 1, kOp, ": betas ",
                 a.beta1, " and ", a.beta2, " must lie in [0, 1)");
  NESTLING_CHECK(a.eps > 0, kOp, ": eps ", a.eps, " must be above 0");
  double flops = 0;
  double bytes = 0;
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    const AdamWTensor& t = a.tensors[i];
    check_tensor(ctx, kOp, t, i);
    const auto n = static_cast<double>(t.master.size());
    flops += 15 * n;
    bytes += (t.low ? 30 : 28) * n;  // four reads, three writes, the copy
  }
  ctx.count(kOp, flops, bytes);
  dispatch(ctx, a, cpu::run, cuda::run);
}

int64_t norm_blocks(int64_t elements) {
  return (elements + kNormBlock - 1) / kNormBlock;
}

int64_t norm_blocks(std::span<const ConstView> grads) {
  int64_t blocks = 0;
  for (const ConstView& g : grads) blocks += norm_blocks(g.size());
  return blocks;
}

void square_sums(Context& ctx, const SquareSums& a) {
  constexpr const char* kOp = "square_sums";
  double n = 0;
  for (const ConstView& g : a.grads) {
    NESTLING_CHECK(static_cast<bool>(g), kOp, ": a gradient is missing");
    check_dtype(kOp, "gradient", g, DType::kF32);
    check_device(ctx, kOp, {g});
    n += static_cast<double>(g.size());
  }
  const int64_t blocks = norm_blocks(a.grads);
  check_shape(kOp, "sums", a.sums, {blocks});
  check_dtype(kOp, "sums", a.sums, DType::kF64);
  check_device(ctx, kOp, {a.sums});
  ctx.count(kOp, 2 * n, 4 * n + 8 * static_cast<double>(blocks));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void norm_of_sums(Context& ctx, const NormOfSums& a) {
  constexpr const char* kOp = "norm_of_sums";
  check_shape(kOp, "norm", a.norm, {1});
  check_dtype(kOp, "norm", a.norm, DType::kF64);
  NESTLING_CHECK(a.sums.rank() == 1 && a.sums.dense(), kOp, ": sums ", a.sums.describe(),
                 ", needs [blocks] without gaps");
  check_dtype(kOp, "sums", a.sums, DType::kF64);
  check_device(ctx, kOp, {a.norm, a.sums});
  const auto n = static_cast<double>(a.sums.size());
  ctx.count(kOp, n, 8 * n);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void global_norm(Context& ctx, const GlobalNorm& a) {
  const Arena::Mark mark(ctx.scratch());
  const View sums = ctx.scratch().alloc(DType::kF64, {norm_blocks(a.grads)});
  square_sums(ctx, {.sums = sums, .grads = a.grads});
  norm_of_sums(ctx, {.norm = a.norm, .sums = sums});
}

}  // namespace nestling
