#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/event.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

namespace {
cudaEvent_t handle(void* event) {
  return static_cast<cudaEvent_t>(event);
}
}  // namespace

Event::Event() {
  cudaEvent_t event = nullptr;
  NESTLING_CUDA(cudaEventCreateWithFlags(&event, cudaEventDefault));
  event_.reset(event);
}

void Event::Destroy::operator()(void* event) const noexcept {
  if (cudaEventDestroy(handle(event)) != cudaSuccess) static_cast<void>(cudaGetLastError());
}

void Event::record(Context& ctx) {
  NESTLING_CUDA(cudaEventRecord(handle(event_.get()), ctx.cuda().stream));
}

double seconds_between(const Event& begin, const Event& end) {
  float milliseconds = 0.0f;
  NESTLING_CUDA(cudaEventSynchronize(handle(end.event_.get())));
  NESTLING_CUDA(
      cudaEventElapsedTime(&milliseconds, handle(begin.event_.get()), handle(end.event_.get())));
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace nestling::cuda
