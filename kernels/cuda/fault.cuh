// fault.cuh - reports a fault from device code; see fault.h.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/fault.h"

namespace nestling::cuda {

inline __device__ void report_fault(FaultWord* word, FaultKind kind, int64_t position) {
  atomicMin(word, static_cast<FaultWord>(position) << 8 | static_cast<FaultWord>(kind));
}

}  // namespace nestling::cuda
