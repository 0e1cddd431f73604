// scan_walk.h - the scan of bf16 operands whose heads fit a block: up to 64 channels and 128 states.
// Internal to kernels/cuda/scan*.
//
// A chunk is 64 tokens here, one tile, whatever the chunks that the operator saves states of: so the only pairs
// are those within a tile. A block owns one head and one run of consecutive chunks, and keeps the SSM state in
// registers, in f32 (64 of its components, where nothing but states is made). Forward, a long segment may be
// several runs, so that every multiprocessor has a block: then a first pass computes what each run contributes to
// the state, and a block begins with the contributions of the runs before its own. Backward, a segment is one run,
// walked from its end; what depends on one chunk alone is then done chunk by chunk.
// Handed on are
//   sums           f32, what a run contributes to the state: only where a segment has several runs
//   dstates_after  bf16, the gradient of the state after every tile: it enters products, and nothing else
//   rows           bf16, dB and dC as [G, T, padded N]: rounded once, laid out afterwards
// States of a head are [64, 128] in this scratch, whatever the view has.
#pragma once
#include "kernels/cuda/scan_passes.h"

namespace nestling::cuda::scan {

inline constexpr int kStates = 128;
inline constexpr int64_t kWalkBytes = int64_t{163} << 10;  // shared memory of the largest block
inline constexpr int64_t kTileTokens = 64;
inline constexpr int64_t kStateSize = kTileTokens * kStates;  // 64 channels

// Whether the shapes and the device's shared memory allow it.
bool walks(Context& ctx, ConstView x, ConstView B);

struct RunSums {
  float* states = nullptr;  // [runs, H, 64, 128]
  float* logs = nullptr;    // [runs, H]: of the decay across the run
};
RunSums run_sums(Context& ctx, const Plan& p, TokenHeads<const __nv_bfloat16> x,
                 const __nv_bfloat16* B);

struct WalkForward {
  TokenHeads<__nv_bfloat16> y;
  TokenHeads<const __nv_bfloat16> x;
  const __nv_bfloat16 *B, *C;
  const float* products;  // of the tiles with themselves
  const float* D;
  StateView initial, chunk_states, final_state;  // data null: absent
  RunSums sums;
};
void walk_forward(Context& ctx, const Plan& p, const WalkForward& w);

// Of the state after every tile: [tiles, H, 64, 128]
const __nv_bfloat16* dstates_after(Context& ctx, const Plan& p, TokenHeads<const __nv_bfloat16> dy,
                                   const __nv_bfloat16* C);

struct TileGradients {
  TokenHeads<__nv_bfloat16> dx;
  TokenHeads<const __nv_bfloat16> dy, x;
  const __nv_bfloat16 *B, *C;
  const float* products;
  const float* D;
  StateView states;  // before the chunks
  const __nv_bfloat16* dstates_after;
  __nv_bfloat16 *dB, *dC;                                                // rows
  float *rows, *cols, *diagonal, *dC_dots, *dB_dots, *chain, *dD_parts;  // ScalarGradients
};
void tile_gradients(Context& ctx, const Plan& p, const TileGradients& g);

}  // namespace nestling::cuda::scan
