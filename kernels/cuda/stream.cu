#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

namespace {
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what NVIDIA recommends for Hopper
}

StreamState::StreamState() {
  const std::string reason = unavailable_reason();
  NESTLING_CHECK_INPUT(reason.empty(), "device cuda: ", reason);
  try {
    NESTLING_CUDA(cudaStreamCreate(&stream));
    NESTLING_CUBLAS(cublasLtCreate(&blas));
    workspace = Tensor(Device::kCuda, DType::kU8, {kWorkspaceBytes});
  } catch (...) {
    if (blas != nullptr) cublasLtDestroy(blas);
    if (stream != nullptr) cudaStreamDestroy(stream);
    throw;
  }
}

StreamState::~StreamState() {
  cudaStreamSynchronize(stream);
  cublasLtDestroy(blas);
  cudaStreamDestroy(stream);
}

StreamState* make_stream_state() {
  return std::make_unique<StreamState>().release();
}
void synchronize(StreamState& state) {
  NESTLING_CUDA(cudaStreamSynchronize(state.stream));
}
void StreamStateDelete::operator()(StreamState* state) const noexcept {
  delete state;
}

}  // namespace nestling::cuda
