// asked.h - the counters behind Activity (memory.h), at hand where a device is asked for something. For
// kernels/cuda alone.
#pragma once
#include <atomic>
#include <cstdint>

namespace nestling::cuda {

struct Asked {
  std::atomic<int64_t> waits{0}, allocations{0}, launches{0}, uploads{0}, copies{0};
};
inline Asked asked;

inline void tally(std::atomic<int64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace nestling::cuda
