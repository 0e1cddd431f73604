// scan_decays.cuh - decays between tokens, from the running sums of their logarithms.
#pragma once
#include "kernels/cuda/scan_plan.h"
#include "kernels/cuda/scan_tiles.cuh"

namespace nestling::cuda::scan {

// e^{later - earlier}; never more than one, so nothing overflows.
inline __device__ float decay(float2 later, float2 earlier) {
  return expf(fminf((later.x - earlier.x) + (later.y - earlier.y), 0.0f));
}

// A pair's sums and dt in shared memory; zero outside the tokens.
struct PairDecays {
  float2 row[kTile], col[kTile];
  float col_dt[kTile];
};
// By all threads of a block; a barrier follows before they are read.
inline __device__ void stage(PairDecays& to, const Decays& d, int64_t scalars, const Tile& row,
                             const Tile& col) {
  const int i = static_cast<int>(threadIdx.x) % kTile;
  if (threadIdx.x < kTile) {
    to.row[i] = i < row.tokens ? d.sum[scalars + row.begin + i] : make_float2(0.0f, 0.0f);
  } else {
    const bool inside = i < col.tokens;
    to.col[i] = inside ? d.sum[scalars + col.begin + i] : make_float2(0.0f, 0.0f);
    to.col_dt[i] = inside ? d.dt[scalars + col.begin + i] : 0.0f;
  }
}

// Where the pair of two tiles of a chunk is among all.
inline __device__ int64_t pair_index(const Chunk& c, int row_place, int col_place) {
  return c.first_pair + int64_t{row_place} * (row_place + 1) / 2 + col_place;
}

}  // namespace nestling::cuda::scan
