// scan_plan.h - what the passes of the chunked scan on CUDA share: how tokens are cut into chunks and
// tiles, the decays, and the views of the operands. Internal to kernels/cuda/scan*.
//
// Chunk         a run of tokens of one segment between two saved states.
// Tile          up to 64 tokens of a chunk.
// Pair          tiles (i, j <= i) of one chunk: i reads what j wrote. Numbered row by row.
// Groups        copies of B and C, and dB and dC before they are laid out, are [G, T, padded N]: a
//               group's rows side by side, zero after N.
#pragma once
#include <vector_types.h>

#include "kernels/core/context.h"
#include "kernels/cuda/alignment.h"
#include "kernels/ops/segments.h"

namespace nestling::cuda::scan {

struct Chunk {
  int64_t begin, length;  // tokens
  int64_t first_tile, first_pair;
  int32_t tiles;
  bool first, last;  // of its segment
};
struct Tile {
  int64_t begin;  // token
  int32_t tokens;
  int32_t place;  // in its chunk
  int64_t chunk;
};
struct Pair {
  int32_t row, col;  // tiles
};
// Where a tile lies among the chunks whose states are saved.
struct Saved {
  int64_t chunk;
  int32_t place;  // tiles of the chunk before this one
  bool ends;      // the chunk
};
// Tiles of one segment that a block walks one after the other, carrying a state.
struct Run {
  int64_t first, count;  // tiles
  int64_t segment;
  int64_t before, after;  // runs of the segment
};

struct Sizes {
  int64_t tokens, heads, channels, states, groups;
  int64_t padded_states, state_tiles, channel_tiles;
};

// Of every head, [H, T]: dt = softplus(dt_raw + dt_bias), and the sum of log a = -rate dt over the
// chunk up to and with the token, as high + low: a difference of two sums is good to a unit in the
// last place of the difference, however large the sums.
struct Decays {
  float* dt;
  float2* sum;
};

// How tokens are cut: into the chunks whose states are saved, or so that every tile is a chunk of its own
// (one pair, sums of logs of its own) and runs of tiles are walked: a segment in one run, or in several
// where that leaves few for the card.
enum class Cut : uint8_t { kChunks, kRuns, kSegments };

// Device arrays of one call, and how many there are of each.
struct Plan {
  Sizes s;
  const Chunk* chunks;
  const Tile* tiles;
  const Pair* pairs;
  const int64_t* first_chunk;  // [segments + 1]
  const Saved* saved;          // of every tile; none where cut into chunks, as of runs
  const Run* runs;
  int64_t chunk_count, tile_count, pair_count, segment_count, run_count;
  Decays decays;
};

struct DecayOperands {
  ConstView dt_raw, A_log, dt_bias;
};
// Scratch of the Context, as are all results below: take a Mark first. Fills the decays.
Plan make_plan(Context& ctx, const Segments& segments, int64_t chunk, Cut cut, ConstView x,
               ConstView B, const DecayOperands& d);

// [T, H, P] operands.
template <class E>
struct TokenHeads {
  E* data;
  int64_t token, head;
  bool vector;  // every row of 64 channels may be read by 16 bytes
};

struct StateView {  // [slots, H, P, N]; data null: absent
  float* data = nullptr;
  int64_t slot = 0, head = 0, channel = 0;
  bool vector = false;
};

template <class V>
StateView state_view(V v) {
  if (!v) return {};
  auto* data = const_cast<float*>(v.template ptr<float>());
  return {data, v.stride(0), v.stride(1), v.stride(2), rows_aligned(v, 16)};
}

}  // namespace nestling::cuda::scan
