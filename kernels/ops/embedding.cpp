#include "kernels/ops/embedding.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_common(Context& ctx, const char* op, ConstView rows, ConstView table, ConstView ids) {
  NESTLING_CHECK(table.rank() == 2, op, ": the table is ", table.describe(), ", needs [V, D]");
  NESTLING_CHECK(ids.rank() == 1, op, ": ids is ", ids.describe(), ", needs [T]");
  NESTLING_CHECK(static_cast<bool>(rows), op, ": the rows are missing");
  check_shape(op, "rows", rows, {ids.dim(0), table.dim(1)});
  check_dtype(op, "rows", rows, DType::kF32);
  check_dtype(op, "ids", ids, DType::kI32);
  check_device(ctx, op, {rows, table, ids});
}

}  // namespace

void embedding_forward(Context& ctx, const EmbeddingForward& a) {
  constexpr const char* kOp = "embedding_forward";
  check_common(ctx, kOp, a.y, a.table, a.ids);
  if (a.table.dtype() != DType::kBF16) check_dtype(kOp, "table", a.table, DType::kF32);
  const auto n = static_cast<double>(a.y.size());
  ctx.count(kOp, 0, n * static_cast<double>(4 + dtype_bytes(a.table.dtype())));
  dispatch(ctx, a, cpu::run, cuda::run);
}

void embedding_backward(Context& ctx, const EmbeddingBackward& a) {
  constexpr const char* kOp = "embedding_backward";
  check_common(ctx, kOp, a.dy, a.dtable, a.ids);
  check_dtype(kOp, "dtable", a.dtable, DType::kF32);
  const auto n = static_cast<double>(a.dy.size());
  ctx.count(kOp, n, 12 * n);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
