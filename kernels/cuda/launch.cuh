// launch.cuh - the one way to launch a kernel: on the Context's stream, checked at once.
//
//   launch(ctx, {.blocks = blocks_for(n), .threads = kThreads}, add_kernel, y, a, b, n);
//
// Empty grid    nothing is launched: an operator on zero tokens is legal.
// Shared memory static, and `shared_bytes` of dynamic_shared(). A block gets 48 KB of both without asking; more than
//               40 KB of dynamic memory is asked for here, at every launch: the kernel's static memory is not
//               known to its launch, and the 8 KB between are for it.
// Errors        a grid or shared memory the device refuses throws, naming the kernel. What a kernel
//               does wrong while it runs shows at the next call that waits.
#pragma once
#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/cuda/asked.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

struct Grid {
  dim3 blocks;
  unsigned threads;  // a block, a multiple of 32
  int64_t shared_bytes = 0;
};

// Blocks for a loop over `items` by blocks * threads threads; each thread takes several where there are
// more than fill the card.
inline dim3 blocks_for(int64_t items, int64_t threads = 256, int64_t most = 4096) {
  return dim3(static_cast<unsigned>(std::min((items + threads - 1) / threads, most)));
}

// The first item of this thread, and the step to its next, in such a loop.
inline __device__ int64_t first_item() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}
inline __device__ int64_t item_step() {
  return int64_t{gridDim.x} * blockDim.x;
}

extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
template <class T>
__device__ T* dynamic_shared() {
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

template <class... Params, class... Args>
void launch(Context& ctx, const Grid& grid, void (*kernel)(Params...), const Args&... args) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  if (ctx.device() == Device::kNull) return;  // a rehearsal
  tally(asked.launches);
  const auto bytes = static_cast<size_t>(grid.shared_bytes);
  constexpr size_t kWithoutAsking = 40 << 10;  // of 48 KB: 8 KB are left to static memory
  if (bytes > kWithoutAsking) {
    const auto set = [&](cudaFuncAttribute what, int value) {
      NESTLING_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), what, value));
    };
    set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    // As many blocks a multiprocessor as there is shared memory for: such kernels have no use for the L1 cache.
    set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = bytes;
  config.stream = ctx.cuda().stream;
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  if (code == cudaSuccess) return;
  const char* name = "kernel";
  static_cast<void>(cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)));
  check_cuda(code, name);
}

}  // namespace nestling::cuda
