// reduce.cuh - sums over a warp and a block, in a fixed order: same inputs, same bits.
#pragma once
#include <cstdint>

namespace nestling::cuda {

inline constexpr int kWarp = 32;

// Every lane gets the sum of its `kLanes`-lane group (a power of two).
template <int kLanes = kWarp, class T>
__device__ T warp_sum(T x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Every thread gets the sum over the block of kThreads. Two calls may follow each other: the first
// barrier keeps the second from overwriting what is still read.
template <int kThreads, class T>
__device__ T block_sum(T x) {
  if constexpr (kThreads == kWarp) return warp_sum(x);
  __shared__ T parts[kThreads / kWarp];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  T total = parts[0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) total += parts[w];
  return total;
}

}  // namespace nestling::cuda
