// parts.cu - a block adds up 32 neighbouring elements: warp w sums parts w, w + 32, ..., then the warps' sums
// are added in order. Few columns and many parts: what counts is how many loads are in flight.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda {

namespace {

constexpr int kWarps = 32;

struct Target {
  float* data;
  int64_t size, cols, pitch;
  __device__ float& operator[](int64_t i) const { return data[i / cols * pitch + i % cols]; }
};
Target target_of(View to) {
  if (!to) return {nullptr, 0, 1, 0};
  return {to.ptr<float>(), to.size(), to.dim(to.rank() - 1), to.pitch()};
}

struct Sum {
  Target to, behind;
  const float* parts;
  int64_t count, stride;
};

__global__ void __launch_bounds__(kWarps* kWarp) add_parts_kernel(Sum s) {
  __shared__ float sums[kWarps][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t i = int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0.0f;
  const bool mine = i < s.to.size + s.behind.size;
  if (mine) {
#pragma unroll 8
    for (int64_t p = warp; p < s.count; p += kWarps) sum += s.parts[p * s.stride + i];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || !mine) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
  if (i < s.to.size)
    s.to[i] += sum;
  else
    s.behind[i - s.to.size] += sum;
}

// One block: parts of a single element that lie side by side.
__global__ void __launch_bounds__(kWarps* kWarp)
    add_all_kernel(float* to, const float* parts, int64_t count) {
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t p = threadIdx.x; p < count; p += kWarps * kWarp) sum += parts[p];
  sum = block_sum<kWarps * kWarp>(sum);
  if (threadIdx.x == 0) *to += sum;
}

}  // namespace

void add_parts(Context& ctx, View to, const float* parts, int64_t count, int64_t stride,
               View behind) {
  if (to.size() == 0 || count == 0) return;
  if (to.size() == 1 && stride == 1)
    return launch(ctx, {1, kWarps * kWarp}, add_all_kernel, to.ptr<float>(), parts, count);
  const Sum sum{.to = target_of(to),
                .behind = target_of(behind),
                .parts = parts,
                .count = count,
                .stride = stride};
  const int64_t size = sum.to.size + sum.behind.size;
  const auto blocks = static_cast<unsigned>((size + kWarp - 1) / kWarp);
  launch(ctx, {blocks, kWarps * kWarp}, add_parts_kernel, sum);
}

}  // namespace nestling::cuda
