// wait.h - the one way in which the host waits for a stream: Activity::waits counts every call, so a test
// can say how often a training step waits. For kernels/cuda alone.
//
// Not counted   a wait for a slot of the ring of upload.h: it happens only while the device has more work
//               queued than the ring has slots.
#pragma once
#include <cuda_runtime_api.h>

namespace nestling::cuda {

void wait_for(cudaStream_t stream);

}  // namespace nestling::cuda
