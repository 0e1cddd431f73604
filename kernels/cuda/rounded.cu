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

bool whole_vectors(std::initializer_list<ConstView> views) {
  bool whole = true;
  for (const ConstView& v : views) {
    const int64_t piece = 16 / dtype_bytes(v.dtype());
    whole = whole && reinterpret_cast<uintptr_t>(v.data()) % 16 == 0;
    whole = whole && v.dim(v.rank() - 1) % piece == 0;
    for (int d = 0; d + 1 < v.rank(); ++d) whole = whole && v.stride(d) % piece == 0;
  }
  return whole;
}

}  // namespace nestling::cuda
