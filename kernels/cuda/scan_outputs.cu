// scan_outputs.cu - y and dx of the chunked scan: a block a tile of tokens, a head and 64 channels.
//
// The block multiplies the chunk's state, then the tile pairs with its own tile last: forward the
// rows it reads, backward the rows that read it.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_passes.h"

namespace nestling::cuda::scan {

namespace {

template <class E>
struct OutputPass {
  Outputs<E> o;
  const Chunk* chunks;
  const Tile* tiles;
  Decays decays;
  Sizes s;
  int64_t tile_count;
};

// Shared memory of a block.
template <class E>
struct OutputShared {
  Shared<E> tiles;
  PairDecays pair;
  float scale[kTile];
};

// sum += (scale u) state^T over all states.
template <class E>
__device__ void add_state(TileSum<E>& sum, OutputShared<E>& shared, const OutputPass<E>& k,
                          const Tile& tile, int64_t head, int64_t p0) {
  const StateView& states = k.o.states;
  const float* state =
      states.data + tile.chunk * states.slot + head * states.head + p0 * states.channel;
  const E* u = k.o.u + (head % k.s.groups * k.s.tokens + tile.begin) * k.s.padded_states;
  for (int64_t n0 = 0; n0 < k.s.states; n0 += kTile) {
    __syncthreads();
    stage(shared.tiles.a, u + n0, k.s.padded_states, tile.tokens, kTile, true, shared.scale);
    stage(shared.tiles.b, state + n0, states.channel, k.s.channels - p0, k.s.states - n0,
          states.vector);
    __syncthreads();
    sum.template add<false, true>(shared.tiles.a, shared.tiles.b);
  }
}

// a = (C_i B_j^T) L dt_j (forward) of one pair, zero for j > i; the pair's decays are staged.
template <class E, Direction kDirection>
__device__ void stage_pair(E* a, const float* products, const PairDecays& pair, bool diagonal) {
  for_own([&](int i, int j, int, int) {
    float m = 0.0f;
    if (!diagonal || j <= i) {
      m = products[i * kTile + j] * decay(pair.row[i], pair.col[j]);
      if (kDirection == Direction::kForward) m *= pair.col_dt[j];
    }
    store(a + i * kPitch<E> + j, m);
  });
}

// The block's rows of y or dx from the sums; returns the thread's share of dy x.
template <class E, Direction kDirection>
__device__ float write_rows(const OutputPass<E>& k, const OutputShared<E>& shared, const float* sum,
                            const Tile& tile, int64_t head, int64_t p0) {
  const float skip = k.o.D[head];
  float dot = 0.0f;
  for_own([&](int i, int p, int, int) {
    if (i >= tile.tokens || p0 + p >= k.s.channels) return;
    const int64_t token = tile.begin + i;
    const float in = load(k.o.in.data + token * k.o.in.token + head * k.o.in.head + p0 + p);
    float v = sum[i * kSumPitch + p];
    if (kDirection == Direction::kBackward) {
      v *= shared.pair.col_dt[i];  // the last pair staged is the tile with itself
      dot += in * load(k.o.x.data + token * k.o.x.token + head * k.o.x.head + p0 + p);
    }
    store(k.o.out.data + token * k.o.out.token + head * k.o.out.head + p0 + p, v + skip * in);
  });
  return dot;
}

template <class E, Direction kDirection>
__global__ void __launch_bounds__(kThreads) outputs_kernel(OutputPass<E> k) {
  constexpr bool kForward = kDirection == Direction::kForward;
  __shared__ OutputShared<E> shared;
  const Place place = block_place(k.s.channel_tiles, k.s.heads);
  const Tile tile = k.tiles[place.slow];
  const Chunk chunk = k.chunks[tile.chunk];
  const int64_t head = place.middle;
  const int64_t p0 = place.fast * kTile;
  const int64_t scalars = head * k.s.tokens;
  TileSum<E> sum;
  sum.clear();
  if (kForward ? !chunk.first || k.o.initial : !chunk.last) {
    if (static_cast<int>(threadIdx.x) < tile.tokens) {
      const float2 own = k.decays.sum[scalars + tile.begin + threadIdx.x];
      const float2 whole = k.decays.sum[scalars + chunk.begin + chunk.length - 1];
      shared.scale[threadIdx.x] = kForward ? decay(own, {0.0f, 0.0f}) : decay(whole, own);
    }
    add_state(sum, shared, k, tile, head, p0);
  }
  const int pairs = kForward ? tile.place + 1 : chunk.tiles - tile.place;
  for (int step = 0; step < pairs; ++step) {
    const int at = kForward ? step : chunk.tiles - 1 - step;
    const Tile other = k.tiles[chunk.first_tile + at];
    const int row = kForward ? tile.place : at;
    const int col = kForward ? at : tile.place;
    const float* products =
        k.o.products +
        (pair_index(chunk, row, col) * k.s.groups + head % k.s.groups) * kTile * kTile;
    __syncthreads();  // what was staged before has been read
    stage(shared.pair, k.decays, scalars, kForward ? tile : other, kForward ? other : tile);
    stage(shared.tiles.b, k.o.in.data + other.begin * k.o.in.token + head * k.o.in.head + p0,
          k.o.in.token, other.tokens, k.s.channels - p0, k.o.in.vector);
    __syncthreads();
    stage_pair<E, kDirection>(shared.tiles.a, products, shared.pair, row == col);
    __syncthreads();
    sum.template add<!kForward, false>(shared.tiles.a, shared.tiles.b);
  }
  __syncthreads();
  sum.write(shared.tiles.sum(), kSumPitch);
  __syncthreads();
  const float dot = write_rows<E, kDirection>(k, shared, shared.tiles.sum(), tile, head, p0);
  if constexpr (!kForward) {
    const float total = block_sum<kThreads>(dot);
    if (threadIdx.x == 0)
      k.o.dD_parts[(place.fast * k.tile_count + place.slow) * k.s.heads + head] = total;
  }
}

}  // namespace

template <class E>
void outputs(Context& ctx, const Plan& p, Direction direction, const Outputs<E>& o) {
  const OutputPass<E> k{o, p.chunks, p.tiles, p.decays, p.s, p.tile_count};
  const dim3 grid(static_cast<unsigned>(p.tile_count * p.s.heads * p.s.channel_tiles));
  if (direction == Direction::kForward)
    launch(ctx, {grid, kThreads}, outputs_kernel<E, Direction::kForward>, k);
  else
    launch(ctx, {grid, kThreads}, outputs_kernel<E, Direction::kBackward>, k);
}
template void outputs(Context&, const Plan&, Direction, const Outputs<float>&);
template void outputs(Context&, const Plan&, Direction, const Outputs<__nv_bfloat16>&);

}  // namespace nestling::cuda::scan
