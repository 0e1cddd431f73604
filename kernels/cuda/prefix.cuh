// prefix.cuh - running sums over the lanes of a warp, of integers: exact in any order.
#pragma once
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda {

// Every lane gets the sum of its own x and those of the lanes below it.
template <class T>
__device__ T warp_running_sum(T x) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int below = 1; below < kWarp; below *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, x, below);
    if (lane >= below) x += other;
  }
  return x;
}

// The last lane's x.
template <class T>
__device__ T warp_last(T x) {
  return __shfl_sync(0xffffffffu, x, kWarp - 1);
}

}  // namespace nestling::cuda
