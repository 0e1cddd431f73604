// stream_state.h - what a CUDA Context owns: stream, cuBLASLt handle, workspace, chosen algorithms.
// For kernels/cuda alone.
//
// Streams       a blocking stream: it is ordered with the legacy default stream of memory.h, and
//               scratch given back to the Context's arena is safe to reuse, as all of its users are
//               on this one stream.
#pragma once
#include <array>
#include <map>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/core/context.h"
#include "kernels/core/tensor.h"

namespace nestling::cuda {

// All that cuBLASLt's choice of an algorithm depends on, in integers: see product.cu.
using ProductKey = std::array<int64_t, 12>;

struct StreamState {
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  Tensor workspace;  // of cuBLASLt
  std::map<ProductKey, cublasLtMatmulAlgo_t> algorithms;

  StreamState();
  ~StreamState();
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;
};

}  // namespace nestling::cuda
