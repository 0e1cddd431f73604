// linear.cu - the linear layer: products by cuBLASLt on operands of rounded.h, biases by own kernels.
#include <algorithm>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rounded.h"
#include "kernels/ops/linear.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxParts = 64;  // of the rows of dy whose columns are summed apart

// to = from + bias; f32 in place, or from f32 scratch into bf16.
__global__ void add_bias_kernel(float* y, __nv_bfloat16* low, const float* bias, int64_t rows,
                                int64_t cols, int64_t y_pitch, int64_t low_pitch) {
  for (int64_t i = first_item(); i < rows * cols; i += item_step()) {
    const int64_t r = i / cols;
    const int64_t c = i % cols;
    const float sum = y[r * y_pitch + c] + bias[c];
    if (low != nullptr)
      low[r * low_pitch + c] = __float2bfloat16_rn(sum);
    else
      y[r * y_pitch + c] = sum;
  }
}

// parts [gridDim.y, cols]: the sums of the columns over one run of rows each.
template <class T>
__global__ void column_parts_kernel(float* parts, const T* dy, int64_t rows, int64_t cols,
                                    int64_t pitch) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= cols) return;
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y;
  const int64_t end = min(rows, (int64_t{blockIdx.y} + 1) * per);
  float sum = 0.0f;
  for (int64_t r = int64_t{blockIdx.y} * per; r < end; ++r) sum += load(dy + r * pitch + c);
  parts[int64_t{blockIdx.y} * cols + c] = sum;
}

__global__ void add_column_parts_kernel(float* to, const float* parts, int64_t count,
                                        int64_t cols) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= cols) return;
  float sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += parts[i * cols + c];
  to[c] += sum;
}

void add_bias(Context& ctx, View y, View low, ConstView bias) {
  launch(ctx, {blocks_for(y.size()), kThreads}, add_bias_kernel, y.ptr<float>(),
         low ? bf16_of(low) : nullptr, bias.ptr<float>(), y.dim(0), y.dim(1), y.pitch(),
         low ? low.pitch() : 0);
}

void add_column_sums(Context& ctx, View to, ConstView dy) {
  const int64_t rows = dy.dim(0);
  const int64_t cols = dy.dim(1);
  const int64_t count = std::min(rows, kMaxParts);
  const auto blocks = static_cast<unsigned>((cols + kThreads - 1) / kThreads);
  const dim3 grid(blocks, static_cast<unsigned>(count));
  float* parts = ctx.scratch().floats(count * cols);
  if (dy.dtype() == DType::kBF16)
    launch(ctx, {grid, kThreads}, column_parts_kernel<__nv_bfloat16>, parts, bf16_of(dy), rows,
           cols, dy.pitch());
  else
    launch(ctx, {grid, kThreads}, column_parts_kernel<float>, parts, dy.ptr<float>(), rows, cols,
           dy.pitch());
  launch(ctx, {blocks, kThreads}, add_column_parts_kernel, to.ptr<float>(), parts, count, cols);
}

}  // namespace

void run(Context& ctx, const LinearForward& a) {
  if (a.y.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const ConstView x = like_weight(ctx, a.x, a.w);
  // A bias is added before the one rounding of y.
  const bool apart = a.bias && a.y.dtype() == DType::kBF16;
  const View y = apart ? aligned_scratch(ctx, DType::kF32, a.y.dim(0), a.y.dim(1)) : a.y;
  run(ctx, Product{.d = y, .a = x, .b = a.w, .transpose_b = true, .accumulate = a.accumulate});
  if (a.bias) add_bias(ctx, y, apart ? a.y : View(), a.bias);
}

void run(Context& ctx, const LinearBackward& a) {
  if (a.dy.size() == 0) {
    if (a.dw && !a.accumulate_dw) fill_zero(ctx, a.dw);
    return;
  }
  const Arena::Mark mark(ctx.scratch());
  if (a.dbias) add_column_sums(ctx, a.dbias, a.dy);
  if (!a.dx && !a.dw) return;
  const ConstView dy = like_weight(ctx, a.dy, a.w);
  if (a.dw)
    run(ctx, Product{.d = a.dw,
                     .a = dy,
                     .b = like_weight(ctx, a.x, a.w),
                     .transpose_a = true,
                     .accumulate = a.accumulate_dw});
  if (a.dx) run(ctx, Product{.d = a.dx, .a = dy, .b = a.w, .accumulate = a.accumulate_dx});
}

}  // namespace nestling::cuda
