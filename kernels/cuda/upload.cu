#include <algorithm>
#include <cstring>

#include "kernels/cuda/asked.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/stream_state.h"
#include "kernels/cuda/upload.h"

namespace nestling::cuda {

namespace {

void enqueue(StreamState& state, std::byte* to, std::span<const std::byte> bytes) {
  UploadRing& ring = state.ring;
  const auto total = static_cast<int64_t>(bytes.size());
  for (int64_t at = 0; at < total; at += UploadRing::kSlotBytes) {
    tally(asked.uploads);
    const auto slot = static_cast<size_t>(ring.next);
    ring.next = (ring.next + 1) % UploadRing::kSlots;
    const auto n = static_cast<size_t>(std::min(UploadRing::kSlotBytes, total - at));
    std::byte* pinned = ring.memory + static_cast<int64_t>(slot) * UploadRing::kSlotBytes;
    NESTLING_CUDA(cudaEventSynchronize(ring.done[slot]));
    std::memcpy(pinned, bytes.data() + at, n);
    NESTLING_CUDA(cudaMemcpyAsync(to + at, pinned, n, cudaMemcpyHostToDevice, state.stream));
    NESTLING_CUDA(cudaEventRecord(ring.done[slot], state.stream));
  }
}

}  // namespace

const std::byte* upload_bytes(Context& ctx, std::span<const std::byte> bytes) {
  std::byte* to = ctx.scratch().alloc(DType::kU8, {std::ssize(bytes)}).data();
  if (ctx.device() != Device::kNull) enqueue(ctx.cuda(), to, bytes);
  return to;
}

void upload(Context& ctx, View device, ConstView host) {
  NESTLING_CHECK(
      same_shape(device, host) && device.dtype() == host.dtype() && device.dense() && host.dense(),
      "upload of ", host.describe(), " to ", device.describe());
  enqueue(ctx.cuda(), device.data(), {host.data(), static_cast<size_t>(host.bytes())});
}

}  // namespace nestling::cuda
