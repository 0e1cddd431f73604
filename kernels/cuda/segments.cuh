// segments.cuh - where a token stands among the segments, in device code.
#pragma once
#include "kernels/cuda/upload.h"

namespace nestling::cuda {

// The segment of token t: the last whose first token is not behind it.
inline __device__ int64_t segment_of(const DeviceSegments& s, int64_t t) {
  int64_t low = 0;
  int64_t high = s.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (s.offsets[middle] <= t)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace nestling::cuda
