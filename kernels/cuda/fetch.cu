#include <algorithm>

#include "kernels/cuda/asked.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/stream_state.h"

namespace nestling::cuda {

namespace {

constexpr int64_t kLeastBlock = int64_t{64} << 10;
constexpr int64_t kAlign = 64;

std::byte* place(Landing& landing, int64_t bytes) {
  if (landing.read) {
    landing.block = 0;
    landing.used = 0;
    landing.read = false;
  }
  while (landing.block < landing.blocks.size() &&
         landing.used + bytes > landing.blocks[landing.block].bytes) {
    ++landing.block;
    landing.used = 0;
  }
  if (landing.block == landing.blocks.size()) {
    const int64_t size = std::max(bytes, kLeastBlock);
    void* memory = nullptr;
    NESTLING_CUDA(cudaMallocHost(&memory, static_cast<size_t>(size)));
    landing.blocks.push_back({static_cast<std::byte*>(memory), size});
  }
  std::byte* at = landing.blocks[landing.block].memory + landing.used;
  landing.used += (bytes + kAlign - 1) / kAlign * kAlign;
  return at;
}

}  // namespace

View fetch(Context& ctx, ConstView device) {
  NESTLING_CHECK(device.dense(), "fetch of ", device.describe(), ", needs a dense view");
  StreamState& state = ctx.cuda();
  std::byte* to = place(state.landing, device.bytes());
  if (device.bytes() > 0) {
    tally(asked.copies);
    NESTLING_CUDA(cudaMemcpyAsync(to, device.data(), static_cast<size_t>(device.bytes()),
                                  cudaMemcpyDeviceToHost, state.stream));
  }
  Extents shape{};
  for (int d = 0; d < device.rank(); ++d) shape[static_cast<size_t>(d)] = device.dim(d);
  return {to, device.dtype(), Device::kCpu, shape, device.rank()};
}

}  // namespace nestling::cuda
