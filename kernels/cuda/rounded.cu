#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rounded.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void round_kernel(__nv_bfloat16* to, const float* from, int64_t rows, int64_t cols,
                             int64_t to_pitch, int64_t from_pitch) {
  for (int64_t i = first_item(); i < rows * cols; i += item_step()) {
    const int64_t r = i / cols;
    const int64_t c = i % cols;
    to[r * to_pitch + c] = __float2bfloat16_rn(from[r * from_pitch + c]);
  }
}

}  // namespace

View aligned_scratch(Context& ctx, DType dtype, int64_t rows, int64_t cols) {
  const int64_t per = 16 / dtype_bytes(dtype);
  return ctx.scratch().alloc(dtype, {rows, (cols + per - 1) / per * per}).prefix(1, cols);
}

ConstView like_weight(Context& ctx, ConstView x, ConstView w) {
  if (x.dtype() == w.dtype()) return x;
  const View low = aligned_scratch(ctx, DType::kBF16, x.dim(0), x.dim(1));
  launch(ctx, {blocks_for(x.size()), kThreads}, round_kernel, bf16_of(low), x.ptr<float>(),
         x.dim(0), x.dim(1), low.pitch(), x.pitch());
  return low;
}

}  // namespace nestling::cuda
