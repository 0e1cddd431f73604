#include "kernels/cuda/rounded.h"
#include "kernels/ops/elementwise.h"

namespace nestling::cuda {

View aligned_scratch(Context& ctx, DType dtype, int64_t rows, int64_t cols) {
  const int64_t per = 16 / dtype_bytes(dtype);
  return ctx.scratch().alloc(dtype, {rows, (cols + per - 1) / per * per}).prefix(1, cols);
}

ConstView like_weight(Context& ctx, ConstView x, ConstView w) {
  if (x.dtype() == w.dtype()) return x;
  const View same = aligned_scratch(ctx, w.dtype(), x.dim(0), x.dim(1));
  cuda::cast(ctx, same, x);
  return same;
}

}  // namespace nestling::cuda
