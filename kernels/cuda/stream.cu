#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/stream_state.h"
#include "kernels/cuda/wait.h"

namespace nestling::cuda {

namespace {
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what NVIDIA recommends for Hopper
}

StreamState::StreamState() {
  const std::string reason = unavailable_reason();
  NESTLING_CHECK_INPUT(reason.empty(), "device cuda: ", reason);
  try {
    open();
  } catch (...) {
    close();
    throw;
  }
}

static int device_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  NESTLING_CUDA(cudaGetDevice(&device));
  NESTLING_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

void StreamState::open() {
  capability = 10 * device_attribute(cudaDevAttrComputeCapabilityMajor) +
               device_attribute(cudaDevAttrComputeCapabilityMinor);
  warpgroups = device_isa() == CudaIsa::kSm90a;
  block_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  NESTLING_CUDA(cudaStreamCreate(&stream));
  NESTLING_CUBLAS(cublasLtCreate(&blas));
  workspace =
      Tensor(Device::kCuda, DType::kU8, {kWorkspaceBytes}, {Pool::kOther, "cuBLASLt workspace"});
  NESTLING_CUDA(cudaMallocHost(reinterpret_cast<void**>(&ring.memory),
                               static_cast<size_t>(UploadRing::kSlots * UploadRing::kSlotBytes)));
  for (cudaEvent_t& event : ring.done)
    NESTLING_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  NESTLING_CUDA(cudaMalloc(reinterpret_cast<void**>(&fault), sizeof *fault));
  NESTLING_CUDA(cudaMallocHost(reinterpret_cast<void**>(&host_fault), sizeof *host_fault));
  NESTLING_CUDA(cudaMemsetAsync(fault, 0xff, sizeof *fault, stream));
}

void StreamState::close() noexcept {
  if (stream != nullptr) cudaStreamSynchronize(stream);
  if (host_fault != nullptr) cudaFreeHost(host_fault);
  if (fault != nullptr) cudaFree(fault);
  for (const Landing::Block& block : landing.blocks) cudaFreeHost(block.memory);
  for (cudaEvent_t event : ring.done)
    if (event != nullptr) cudaEventDestroy(event);
  if (ring.memory != nullptr) cudaFreeHost(ring.memory);
  if (blas != nullptr) cublasLtDestroy(blas);
  if (stream != nullptr) cudaStreamDestroy(stream);
}

StreamState::~StreamState() {
  close();
}

StreamState* make_stream_state() {
  return std::make_unique<StreamState>().release();
}

void synchronize(StreamState& state) {
  NESTLING_CUDA(cudaMemcpyAsync(state.host_fault, state.fault, sizeof *state.fault,
                                cudaMemcpyDeviceToHost, state.stream));
  wait_for(state.stream);
  state.landing.read = true;
  const FaultWord word = *state.host_fault;
  if (word == kNoFault) return;
  NESTLING_CUDA(cudaMemsetAsync(state.fault, 0xff, sizeof *state.fault, state.stream));
  throw Error(describe_fault(word));
}

void StreamStateDelete::operator()(StreamState* state) const noexcept {
  delete state;
}

std::string describe_fault(FaultWord word) {
  const auto position = static_cast<int64_t>(word >> 8);
  switch (static_cast<FaultKind>(word & 0xff)) {
    case FaultKind::kTokenId:
      return str("embedding: the id at position ", position, " is outside the table");
    case FaultKind::kTooFewExperts:
      return str("gate_forward: token ", position, " can go to fewer experts than it needs");
    case FaultKind::kExpertIndex:
      return str("an expert index of token ", position, " is outside the experts");
    case FaultKind::kTarget:
      return str("head_loss: the target of token ", position, " is outside the vocabulary");
    case FaultKind::kLogits:
      return str("sample: the largest logit of row ", position, " is not finite");
    case FaultKind::kSumOfI32:
      return str("all_reduce, reduce_scatter: the sum of i32 overflows at element ", position);
    case FaultKind::kSumOfI64:
      return str("all_reduce, reduce_scatter: the sum of i64 overflows at element ", position);
  }
  return str("an unknown fault at position ", position);
}

}  // namespace nestling::cuda
