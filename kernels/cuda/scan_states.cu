// scan_states.cu - the states of the chunked scan: what chunks add to them, and the chain over chunks.
//
// Chunk sums    a block a chunk, head and 64 x 64 of [P, N]: products over the chunk's tiles.
// Chain         a thread an element of a head's state, which walks the chunks of one segment; the
//               loads of several chunks are in flight at once.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_passes.h"

namespace nestling::cuda::scan {

namespace {

template <class E>
struct ChunkSums {
  TokenHeads<const E> v;
  const E* u;
  StateView out;
  const Chunk* chunks;
  Decays decays;
  Sizes s;
};

template <class E, Direction kDirection>
__global__ void __launch_bounds__(kThreads) chunk_sums_kernel(ChunkSums<E> k) {
  __shared__ Shared<E> shared;
  __shared__ float weight[kTile];
  const Place place = block_place(k.s.channel_tiles * k.s.state_tiles, k.s.heads);
  const Chunk chunk = k.chunks[place.slow];
  const int64_t head = place.middle;
  const int64_t p0 = place.fast / k.s.state_tiles * kTile;
  const int64_t n0 = place.fast % k.s.state_tiles * kTile;
  const int64_t scalars = head * k.s.tokens + chunk.begin;
  const float2 whole = k.decays.sum[scalars + chunk.length - 1];
  TileSum<E> sum;
  sum.clear();
  for (int64_t at = 0; at < chunk.length; at += kTile) {
    const int64_t rows = min(int64_t{kTile}, chunk.length - at);
    __syncthreads();  // the tiles before have been multiplied
    if (threadIdx.x < rows) {
      const int64_t t = scalars + at + threadIdx.x;
      const float2 own = k.decays.sum[t];
      weight[threadIdx.x] = kDirection == Direction::kForward ? k.decays.dt[t] * decay(whole, own)
                                                              : decay(own, {0.0f, 0.0f});
    }
    __syncthreads();
    const int64_t token = chunk.begin + at;
    stage(shared.a, k.v.data + token * k.v.token + head * k.v.head + p0, k.v.token, rows,
          k.s.channels - p0, k.v.vector, weight);
    stage(shared.b, k.u + (head % k.s.groups * k.s.tokens + token) * k.s.padded_states + n0,
          k.s.padded_states, rows, kTile, true);
    __syncthreads();
    sum.template add<true, false>(shared.a, shared.b);
  }
  __syncthreads();
  sum.write(shared.sum(), kSumPitch);
  __syncthreads();
  for_own([&](int row, int col, int, int) {
    if (p0 + row < k.s.channels && n0 + col < k.s.states)
      k.out.data[place.slow * k.out.slot + head * k.out.head + (p0 + row) * k.out.channel + n0 +
                 col] = shared.sum()[row * kSumPitch + col];
  });
}

constexpr int kChainThreads = 256;
constexpr int kAhead = 4;  // chunks whose loads are in flight

struct Chain {
  StateView moved;  // slot = chunk: in, what each chunk adds; out, what had come to it before
  StateView from;   // forward: initial, slot = segment
  StateView last;   // forward: after the segment
  StateView other;  // backward: the states before the chunks
  float* parts;     // backward
  Decays decays;
  const Chunk* chunks;
  const int64_t* first_chunk;
  int64_t chunk_count;
  Sizes s;
};

// Block (segment, head, run of elements of [P, N]).
template <Direction kDirection>
__global__ void __launch_bounds__(kChainThreads) chain_kernel(Chain c) {
  constexpr bool kForward = kDirection == Direction::kForward;
  const int64_t segment = blockIdx.x;
  const int64_t head = blockIdx.y;
  const int64_t i = int64_t{blockIdx.z} * kChainThreads + threadIdx.x;
  const bool inside = i < c.s.channels * c.s.states;
  const int64_t channel = inside ? i / c.s.states : 0;
  const int64_t n = inside ? i % c.s.states : 0;
  const auto at = [&](const StateView& v, int64_t slot) -> float& {
    return v.data[slot * v.slot + head * v.head + channel * v.channel + n];
  };
  const int64_t begin = c.first_chunk[segment];
  const int64_t end = c.first_chunk[segment + 1];
  float state = kForward && inside && c.from.data != nullptr ? at(c.from, segment) : 0.0f;
  for (int64_t k0 = begin; k0 < end; k0 += kAhead) {
    float added[kAhead];
    float other[kAhead];
    float kept[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t step = min(k0 + j, end - 1);
      const int64_t k = kForward ? step : begin + end - 1 - step;
      const Chunk& chunk = c.chunks[k];
      const int64_t back = head * c.s.tokens + chunk.begin + chunk.length - 1;
      kept[j] = decay(c.decays.sum[back], {0.0f, 0.0f});
      added[j] = inside ? at(c.moved, k) : 0.0f;
      other[j] = !kForward && inside ? at(c.other, k) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (k0 + j >= end) break;  // all threads alike
      const int64_t k = kForward ? k0 + j : begin + end - 1 - (k0 + j);
      if (inside) at(c.moved, k) = state;
      if constexpr (!kForward) {
        const float dot = block_sum<kChainThreads>(state * other[j]);
        if (threadIdx.x == 0)
          c.parts[(blockIdx.z * c.chunk_count + k) * c.s.heads + head] = dot * kept[j];
      }
      state = kept[j] * state + added[j];
    }
  }
  if (kForward && inside && c.last.data != nullptr) at(c.last, segment) = state;
}

template <Direction kDirection>
void launch_chain(Context& ctx, const Plan& p, Chain c, int64_t runs) {
  c.decays = p.decays;
  c.chunks = p.chunks;
  c.first_chunk = p.first_chunk;
  c.chunk_count = p.chunk_count;
  c.s = p.s;
  const dim3 grid(static_cast<unsigned>(p.segment_count), static_cast<unsigned>(p.s.heads),
                  static_cast<unsigned>(runs));
  launch(ctx, {grid, kChainThreads}, chain_kernel<kDirection>, c);
}

int64_t chain_runs(const Plan& p) {
  return (p.s.channels * p.s.states + kChainThreads - 1) / kChainThreads;
}

}  // namespace

template <class E>
void chunk_sums(Context& ctx, const Plan& p, Direction direction, TokenHeads<const E> v, const E* u,
                StateView out) {
  const ChunkSums<E> k{v, u, out, p.chunks, p.decays, p.s};
  const dim3 grid(
      static_cast<unsigned>(p.chunk_count * p.s.heads * p.s.channel_tiles * p.s.state_tiles));
  if (direction == Direction::kForward)
    launch(ctx, {grid, kThreads}, chunk_sums_kernel<E, Direction::kForward>, k);
  else
    launch(ctx, {grid, kThreads}, chunk_sums_kernel<E, Direction::kBackward>, k);
}
template void chunk_sums(Context&, const Plan&, Direction, TokenHeads<const float>, const float*,
                         StateView);
template void chunk_sums(Context&, const Plan&, Direction, TokenHeads<const __nv_bfloat16>,
                         const __nv_bfloat16*, StateView);

void chain_states(Context& ctx, const Plan& p, StateView states, StateView initial,
                  StateView last) {
  Chain c{};
  c.moved = states;
  c.from = initial;
  c.last = last;
  launch_chain<Direction::kForward>(ctx, p, c, chain_runs(p));
}

ChainParts chain_gradients(Context& ctx, const Plan& p, StateView gradients, StateView states) {
  const int64_t runs = chain_runs(p);
  Chain c{};
  c.moved = gradients;
  c.other = states;
  c.parts = ctx.scratch().floats(runs * p.chunk_count * p.s.heads);
  launch_chain<Direction::kBackward>(ctx, p, c, runs);
  return {c.parts, runs};
}

}  // namespace nestling::cuda::scan
