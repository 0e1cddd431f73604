// expert_tiles.cuh - which rows of which expert a block has, where only the device knows how many there are.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/prefix.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda {

struct ExpertTile {
  int expert;
  int first;  // row
  int rows;   // 0: no such tile
};

// The slot-th tile of `height` rows, counted through the experts. Every warp finds it for itself.
inline __device__ ExpertTile find_tile(const int32_t* offsets, int experts, int64_t slot,
                                       int height) {
  const int lane = threadIdx.x % kWarp;
  int64_t before = 0;  // tiles of the experts before
  for (int base = 0; base < experts; base += kWarp) {
    const int e = base + lane;
    const int begin = e < experts ? offsets[e] : 0;
    const int end = e < experts ? offsets[e + 1] : 0;
    const int64_t tiles = (end - begin + height - 1) / height;
    const int64_t upto = before + warp_running_sum(tiles);
    const bool mine = slot >= upto - tiles && slot < upto;
    const unsigned found = __ballot_sync(0xffffffffu, mine);
    if (found != 0) {
      const int owner = __ffs(static_cast<int>(found)) - 1;
      const int first = begin + static_cast<int>(slot - (upto - tiles)) * height;
      return {.expert = base + owner,
              .first = __shfl_sync(0xffffffffu, first, owner),
              .rows = __shfl_sync(0xffffffffu, min(height, end - first), owner)};
    }
    before = warp_last(upto);
  }
  return {.expert = 0, .first = 0, .rows = 0};
}

// Tiles of `extent`, the last one cut short.
inline unsigned tiles_of(int64_t extent, int64_t tile) {
  return static_cast<unsigned>((extent + tile - 1) / tile);
}

}  // namespace nestling::cuda
