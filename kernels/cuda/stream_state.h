// stream_state.h - what a CUDA Context owns: stream, cuBLASLt handle, workspace, chosen algorithms, the
// ring of pinned memory of upload.h, the pinned memory that fetch copies into and the word of fault.h.
// For kernels/cuda alone.
//
// Streams       a blocking stream: it is ordered with the legacy default stream of memory.h, and
//               scratch given back to the Context's arena is safe to reuse, as all of its users are
//               on this one stream.
#pragma once
#include <array>
#include <map>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/core/context.h"
#include "kernels/core/tensor.h"
#include "kernels/cuda/fault.h"

namespace nestling::cuda {

// All that cuBLASLt's choice of an algorithm depends on, in integers: see product.cu.
using ProductKey = std::array<int64_t, 12>;

// Pinned host memory in equal slots, used in turn; a slot's event has passed when its copy is done.
struct UploadRing {
  static constexpr int64_t kSlots = 64;
  static constexpr int64_t kSlotBytes = int64_t{64} << 10;
  std::byte* memory = nullptr;
  std::array<cudaEvent_t, kSlots> done{};
  int64_t next = 0;
};

// Pinned host memory in blocks, filled one after another and kept: a step that fetches what the step
// before did takes no more.
struct Landing {
  struct Block {
    std::byte* memory;
    int64_t bytes;
  };
  std::vector<Block> blocks;
  size_t block = 0;  // being filled
  int64_t used = 0;  // of it
  bool read = true;  // the host was told to read: the next fetch begins anew
};

struct StreamState {
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  Tensor workspace;  // of cuBLASLt
  std::map<ProductKey, cublasLtMatmulAlgo_t> algorithms;
  UploadRing ring;
  Landing landing;
  int capability = 0;               // of the device: 90 for 9.0
  bool warpgroups = false;          // wgmma: device_isa() is sm_90a
  int64_t block_bytes = 0;          // of shared memory that a block may ask for
  FaultWord* fault = nullptr;       // device memory
  FaultWord* host_fault = nullptr;  // pinned: where synchronize reads it

  StreamState();
  ~StreamState();
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;

 private:
  void open();
  void close() noexcept;
};

}  // namespace nestling::cuda
