// rms_norm.cu - one block a row; dw and dactive are summed by row parts, then over the parts.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/rms_norm.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kParts = 264;  // two blocks a multiprocessor of an H100

struct Forward {
  float* y;
  float* rstd;
  const float* x;
  const float* w;
  const float* active;
  int64_t y_pitch, x_pitch, rows, width;
  float eps;
};

__global__ void forward_kernel(Forward f) {
  const float active = f.active != nullptr ? *f.active : static_cast<float>(f.width);
  for (int64_t t = blockIdx.x; t < f.rows; t += gridDim.x) {
    const float* x = f.x + t * f.x_pitch;
    float* y = f.y + t * f.y_pitch;
    float sum = 0.0f;
    for (int64_t d = threadIdx.x; d < f.width; d += kThreads) sum += x[d] * x[d];
    const float rstd = 1.0f / sqrtf(block_sum<kThreads>(sum) / active + f.eps);
    if (threadIdx.x == 0) f.rstd[t] = rstd;
    for (int64_t d = threadIdx.x; d < f.width; d += kThreads) y[d] = x[d] * rstd * f.w[d];
  }
}

struct Backward {
  float* dx;
  float* parts;  // [blocks, width + 1]: dw, then dactive, of the rows of a block
  const float* dy;
  const float* x;
  const float* w;
  const float* rstd;
  const float* active;
  int64_t dx_pitch, dy_pitch, x_pitch, rows, width;
};

// Block b takes rows b, b + blocks, ...; thread i owns columns i, i + 256, ... of the block's part,
// so each of its sums has one writer and one order.
__global__ void backward_kernel(Backward b) {
  const float active = b.active != nullptr ? *b.active : static_cast<float>(b.width);
  float* part = b.parts + blockIdx.x * (b.width + 1);
  for (int64_t d = threadIdx.x; d < b.width; d += kThreads) part[d] = 0.0f;
  float dactive = 0.0f;
  for (int64_t t = blockIdx.x; t < b.rows; t += gridDim.x) {
    const float* x = b.x + t * b.x_pitch;
    const float* dy = b.dy + t * b.dy_pitch;
    float* dx = b.dx + t * b.dx_pitch;
    const float rstd = b.rstd[t];
    float dot_part = 0.0f;
    float square_part = 0.0f;
    for (int64_t d = threadIdx.x; d < b.width; d += kThreads) {
      const float scaled = dy[d] * x[d];
      dot_part += scaled * b.w[d];
      square_part += x[d] * x[d];
      part[d] += scaled * rstd;
    }
    const float dot = block_sum<kThreads>(dot_part);
    const float squares = block_sum<kThreads>(square_part);
    const float cube = rstd * rstd * rstd;
    const float pull = dot * cube / active;
    for (int64_t d = threadIdx.x; d < b.width; d += kThreads)
      dx[d] = dy[d] * b.w[d] * rstd - x[d] * pull;
    dactive += dot * cube * squares / (2.0f * active * active);
  }
  if (threadIdx.x == 0) part[b.width] = dactive;
}

__global__ void add_parts_kernel(float* dw, float* dactive, const float* parts, int64_t blocks,
                                 int64_t width) {
  const int64_t d = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (d > width) return;
  float sum = 0.0f;
  for (int64_t b = 0; b < blocks; ++b) sum += parts[b * (width + 1) + d];
  if (d < width)
    dw[d] += sum;
  else if (dactive != nullptr)
    *dactive += sum;
}

const float* active_of(ConstView active) {
  return active ? active.ptr<float>() : nullptr;
}

}  // namespace

void run(Context& ctx, const RmsNormForward& a) {
  if (a.x.size() == 0) return;
  const Forward f{.y = a.y.ptr<float>(),
                  .rstd = a.rstd.ptr<float>(),
                  .x = a.x.ptr<float>(),
                  .w = a.w.ptr<float>(),
                  .active = active_of(a.active),
                  .y_pitch = a.y.pitch(),
                  .x_pitch = a.x.pitch(),
                  .rows = a.x.dim(0),
                  .width = a.x.dim(1),
                  .eps = a.eps};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(f.rows, int64_t{1} << 20));
  launch(ctx, {blocks, kThreads}, forward_kernel, f);
}

void run(Context& ctx, const RmsNormBackward& a) {
  if (a.x.size() == 0) return;
  const int64_t rows = a.x.dim(0);
  const int64_t width = a.x.dim(1);
  const int64_t blocks = std::min(rows, kParts);
  const Arena::Mark mark(ctx.scratch());
  float* parts = ctx.scratch().floats(blocks * (width + 1));
  const Backward b{.dx = a.dx.ptr<float>(),
                   .parts = parts,
                   .dy = a.dy.ptr<float>(),
                   .x = a.x.ptr<float>(),
                   .w = a.w.ptr<float>(),
                   .rstd = a.rstd.ptr<float>(),
                   .active = active_of(a.active),
                   .dx_pitch = a.dx.pitch(),
                   .dy_pitch = a.dy.pitch(),
                   .x_pitch = a.x.pitch(),
                   .rows = rows,
                   .width = width};
  launch(ctx, {static_cast<unsigned>(blocks), kThreads}, backward_kernel, b);
  const auto columns = static_cast<unsigned>((width + 1 + kThreads - 1) / kThreads);
  launch(ctx, {columns, kThreads}, add_parts_kernel, a.dw.ptr<float>(),
         a.dactive ? a.dactive.ptr<float>() : nullptr, parts, blocks, width);
}

}  // namespace nestling::cuda
