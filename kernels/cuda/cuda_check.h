// cuda_check.h - NESTLING_CUDA(call), NESTLING_CUBLAS(call): a call that fails throws Error with
// its text, the symbolic name of the error, its meaning and the device. For kernels/cuda alone.
//
// Sticky errors are cleared first, so that the next call does not report this one's. A kernel's own
// failure shows at the next call that waits; launch.cuh checks the launch.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/core/check.h"

namespace nestling::cuda {

inline void check_cuda(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) static_cast<void>(cudaGetLastError());
  throw Error(str("cuda device ", device, ": ", call, ": ", cudaGetErrorName(code), " (",
                  cudaGetErrorString(code), ")"));
}

inline void check_cublas(cublasStatus_t code, const char* call) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw Error(str("cuda: ", call, ": ", cublasLtGetStatusName(code)));
}

}  // namespace nestling::cuda

#define NESTLING_CUDA(call) ::nestling::cuda::check_cuda(call, #call)
#define NESTLING_CUBLAS(call) ::nestling::cuda::check_cublas(call, #call)
