#include "kernels/ops/dequantize.h"

#include "kernels/ops/code_operands.h"
#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

constexpr const char* kOp = "dequantize";

// Of y's shape but for the last dimension.
void check_like(const char* name, ConstView v, DType dtype, ConstView y, int64_t last) {
  check_dtype(kOp, name, v, dtype);
  bool like = v.rank() == y.rank() && v.dim(v.rank() - 1) == last;
  for (int d = 0; like && d + 1 < y.rank(); ++d) like = v.dim(d) == y.dim(d);
  NESTLING_CHECK(like, kOp, ": ", name, " are ", v.describe(), ", need ", last,
                 " in the last dimension and the others of y ", y.describe());
}

}  // namespace

void dequantize(Context& ctx, const Dequantize& a) {
  const int rank = a.y.rank();
  NESTLING_CHECK((rank == 2 && !a.expert_scales) || (rank == 3 && a.expert_scales), kOp, ": y is ",
                 a.y.describe(), a.expert_scales ? " beside" : " without",
                 " scales of experts, needs [N, K], or [E, N, K] and [E]");
  const int64_t k = a.y.dim(rank - 1);
  check_beside_codes(ctx, kOp, "y", a.y);
  if (a.block_scales) {
    check_nvfp4_columns(kOp, k);
    check_like("codes", a.codes, DType::kU8, a.y, k / 2);
    check_like("block_scales", a.block_scales, DType::kF8E4M3, a.y, k / kNvfp4Block);
  } else {
    check_like("codes", a.codes, DType::kF8E4M3, a.y, k);
  }
  if (a.expert_scales) {
    check_shape(kOp, "expert_scales", a.expert_scales, {a.y.dim(0)});
    check_dtype(kOp, "expert_scales", a.expert_scales, DType::kF32);
  }
  check_device(ctx, kOp, {a.y, a.codes, a.block_scales, a.expert_scales});
  ctx.count(kOp, 0, static_cast<double>(a.y.bytes() + a.codes.bytes() + a.block_scales.bytes()));
  if (a.y.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
