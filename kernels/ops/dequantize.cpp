#include "kernels/ops/dequantize.h"

#include "kernels/core/parallel.h"
#include "kernels/cpu/code_values.h"
#include "kernels/cpu/widened_product.h"
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

namespace cpu {

namespace {

void dequantize_matrix(View y, ConstView codes, ConstView block_scales, float scale) {
  if (block_scales)
    widen(y, codes, block_scales);
  else
    widen(y, codes);
  each_row(y, [&](int64_t r) {
    float* row = y.ptr<float>() + r * y.pitch();
    for (int64_t i = 0; i < y.dim(1); ++i) row[i] *= scale;
  });
}

}  // namespace

void run(Context& /*ctx*/, const Dequantize& a) {
  if (a.y.rank() == 2) return dequantize_matrix(a.y, a.codes, a.block_scales, a.scale);
  const auto matrix = [](auto v, int64_t e) {
    return v ? v.slice(0, e, 1).reshape({v.dim(1), v.dim(2)}) : v;
  };
  parallel_for(a.y.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e)
      dequantize_matrix(matrix(a.y, e), matrix(a.codes, e), matrix(a.block_scales, e),
                        a.expert_scales.ptr<float>()[e]);
  });
}

}  // namespace cpu

}  // namespace nestling
