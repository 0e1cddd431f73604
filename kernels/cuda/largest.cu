// largest.cu - one atomic maximum a warp, on bits: sizes are in their order as integers, NaN above infinity.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/largest.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr unsigned kInfinity = 0x7f800000u;

__device__ unsigned warp_max(unsigned x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = max(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

template <class X>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(unsigned* largest, const X* x, int64_t rows, int64_t cols, int64_t pitch) {
  unsigned most = 0;
  for (int64_t i = first_item(); i < rows * cols; i += item_step())
    most = max(most, __float_as_uint(load(x + i / cols * pitch + i % cols)) & 0x7fffffffu);
  most = min(warp_max(most), kInfinity);
  if (threadIdx.x % kWarp == 0 && most > 0) atomicMax(largest, most);
}

template <class X>
void largest_of(Context& ctx, const Largest& a) {
  const dim3 blocks = blocks_for(a.x.size(), kThreads);
  launch(ctx, {blocks, kThreads}, largest_kernel<X>,
         reinterpret_cast<unsigned*>(a.largest.ptr<float>()), elements<X>(a.x), a.x.rows(),
         a.x.dim(a.x.rank() - 1), a.x.pitch());
}

}  // namespace

void run(Context& ctx, const Largest& a) {
  if (a.x.dtype() == DType::kBF16)
    largest_of<__nv_bfloat16>(ctx, a);
  else
    largest_of<float>(ctx, a);
}

}  // namespace nestling::cuda
