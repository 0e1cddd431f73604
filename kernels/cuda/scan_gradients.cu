// scan_gradients.cu - gradients by pairs of tiles, and dB and dC: blocks take the heads of a group one
// after the other, so that the sums over them have one order and C B^T is read once.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_gradients.h"

namespace nestling::cuda::scan {

namespace {

template <class E>
struct PairPass {
  PairGradients<E> out;
  TokenHeads<const E> dy, x;
  const float* products;
  const Chunk* chunks;
  const Tile* tiles;
  const Pair* pairs;
  Decays decays;
  Sizes s;
};

template <class E>
struct PairShared {
  Shared<E> tiles;
  PairDecays decays;
  float cols[kThreads / kWarp][kTile];  // sums over the rows of each warp
};

// shared.tiles.sum() = dy_i x_j^T of one head.
template <class E>
__device__ void multiply_heads(PairShared<E>& shared, const PairPass<E>& k, const Tile& row,
                               const Tile& col, int64_t head) {
  TileSum<E> sum;
  sum.clear();
  for (int64_t p0 = 0; p0 < k.s.channels; p0 += kTile) {
    __syncthreads();
    stage(shared.tiles.a, k.dy.data + row.begin * k.dy.token + head * k.dy.head + p0, k.dy.token,
          row.tokens, k.s.channels - p0, k.dy.vector);
    stage(shared.tiles.b, k.x.data + col.begin * k.x.token + head * k.x.head + p0, k.x.token,
          col.tokens, k.s.channels - p0, k.x.vector);
    __syncthreads();
    sum.template add<false, true>(shared.tiles.a, shared.tiles.b);
  }
  __syncthreads();
  sum.write(shared.tiles.sum(), kSumPitch);
  __syncthreads();
}

// One head's share of dG (in registers), and its sums of K; `products` are the thread's C B^T.
template <class E>
__device__ void pair_head(PairShared<E>& shared, const PairPass<E>& k,
                          const float (&products)[kRows][kCols], float (&dG)[kRows][kCols],
                          const Tile& row, int64_t head, bool diagonal) {
  const float* dM = shared.tiles.sum();
  float cols[kCols] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int i = own_row(r);
    float row_sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kCols; ++c) {
      const int j = own_col(c);
      if (diagonal && j > i) continue;
      const float m = dM[i * kSumPitch + j] * decay(shared.decays.row[i], shared.decays.col[j]);
      const float kept = m * products[r][c];
      dG[r][c] += m * shared.decays.col_dt[j];
      if (diagonal && j == i) {
        if (i < row.tokens) k.out.diagonal[head * k.s.tokens + row.begin + i] = kept;
        continue;
      }
      row_sum += kept * shared.decays.col_dt[j];
      cols[c] += kept;
    }
    row_sum = warp_sum(row_sum);
    if (threadIdx.x % kWarp == 0) k.out.rows[(blockIdx.x * k.s.heads + head) * kTile + i] = row_sum;
  }
#pragma unroll
  for (int c = 0; c < kCols; ++c) shared.cols[threadIdx.x / kWarp][own_col(c)] = cols[c];
  __syncthreads();
  if (threadIdx.x < kTile) {
    float sum = 0.0f;
    for (int w = 0; w < kThreads / kWarp; ++w) sum += shared.cols[w][threadIdx.x];
    k.out.cols[(blockIdx.x * k.s.heads + head) * kTile + threadIdx.x] = sum;
  }
}

// Block (pair, group).
template <class E>
__global__ void __launch_bounds__(kThreads) pair_gradients_kernel(PairPass<E> k) {
  __shared__ PairShared<E> shared;
  const Pair pair = k.pairs[blockIdx.x];
  const Tile row = k.tiles[pair.row];
  const Tile col = k.tiles[pair.col];
  const int64_t at = (blockIdx.x * k.s.groups + blockIdx.y) * kTile * kTile;
  float products[kRows][kCols];
  float dG[kRows][kCols];
  for_own([&](int i, int j, int r, int c) {
    products[r][c] = k.products[at + i * kTile + j];
    dG[r][c] = 0.0f;
  });
  for (int64_t head = blockIdx.y; head < k.s.heads; head += k.s.groups) {
    multiply_heads(shared, k, row, col, head);
    stage(shared.decays, k.decays, head * k.s.tokens, row, col);
    __syncthreads();
    pair_head(shared, k, products, dG, row, head, pair.row == pair.col);
  }
  for_own(
      [&](int i, int j, int r, int c) { store(k.out.products + at + i * kTile + j, dG[r][c]); });
}

template <class E>
struct GroupPass {
  GroupGradients out;
  TokenHeads<const E> v;
  StateView states;
  const E *own, *other, *pairs;
  const Chunk* chunks;
  const Tile* tiles;
  Decays decays;
  Sizes s;
  int64_t tile_count;
};

template <class E>
struct GroupShared {
  Shared<E> tiles;
  float scale[kTile];   // of the head's state term
  float weight[kTile];  // dt_j of dB, else one
};

// The state term of one head into the thread's sums, and its dots with `own`.
template <class E, Direction kDirection>
__device__ void add_head(GroupShared<E>& shared, const GroupPass<E>& k, const Tile& tile,
                         const Chunk& chunk, int64_t head, int64_t n0, const E* own,
                         float (&d)[kRows][kCols]) {
  TileSum<E> sum;
  sum.clear();
  const float* state = k.states.data + tile.chunk * k.states.slot + head * k.states.head + n0;
  for (int64_t p0 = 0; p0 < k.s.channels; p0 += kTile) {
    __syncthreads();
    stage(shared.tiles.a, k.v.data + tile.begin * k.v.token + head * k.v.head + p0, k.v.token,
          tile.tokens, k.s.channels - p0, k.v.vector);
    stage(shared.tiles.b, state + p0 * k.states.channel, k.states.channel, k.s.channels - p0,
          k.s.states - n0, k.states.vector);
    __syncthreads();
    sum.template add<false, false>(shared.tiles.a, shared.tiles.b);
  }
  __syncthreads();
  sum.write(shared.tiles.sum(), kSumPitch);
  const int64_t scalars = head * k.s.tokens;
  if (static_cast<int>(threadIdx.x) < tile.tokens) {
    const int64_t t = scalars + tile.begin + threadIdx.x;
    const float2 sums = k.decays.sum[t];
    const float2 whole = k.decays.sum[scalars + chunk.begin + chunk.length - 1];
    const bool reads = kDirection == Direction::kForward;
    shared.scale[threadIdx.x] = reads ? decay(sums, {0.0f, 0.0f}) : decay(whole, sums);
    shared.weight[threadIdx.x] = reads ? 1.0f : k.decays.dt[t];
  }
  __syncthreads();
  float* dots = k.out.dots + (n0 / kTile * k.s.heads + head) * k.s.tokens + tile.begin;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int i = own_row(r);
    if (i >= tile.tokens) break;  // the whole warp
    float dot = 0.0f;
#pragma unroll
    for (int c = 0; c < kCols; ++c) {
      const int n = own_col(c);
      const float v = shared.tiles.sum()[i * kSumPitch + n] * shared.scale[i];
      d[r][c] += v * shared.weight[i];
      dot += v * load(own + i * k.s.padded_states + n);
    }
    dot = warp_sum(dot);
    if (threadIdx.x % kWarp == 0) dots[i] = dot;
  }
}

// sum += the pairs of the tile with the tiles that it reads (or that read it).
template <class E, Direction kDirection>
__device__ void add_pairs(TileSum<E>& sum, Shared<E>& shared, const GroupPass<E>& k,
                          const Tile& tile, const Chunk& chunk, int64_t group, int64_t n0) {
  constexpr bool kForward = kDirection == Direction::kForward;
  const int from = kForward ? 0 : tile.place;
  const int end = kForward ? tile.place + 1 : chunk.tiles;
  for (int place = from; place < end; ++place) {
    const Tile other = k.tiles[chunk.first_tile + place];
    const int64_t pair =
        kForward ? pair_index(chunk, tile.place, place) : pair_index(chunk, place, tile.place);
    __syncthreads();
    stage(shared.a, k.pairs + (pair * k.s.groups + group) * kTile * kTile, kTile, kTile, kTile,
          true);
    stage(shared.b, k.other + (group * k.s.tokens + other.begin) * k.s.padded_states + n0,
          k.s.padded_states, other.tokens, kTile, true);
    __syncthreads();
    sum.template add<!kForward, false>(shared.a, shared.b);
  }
}

// Block (group, tile, 64 states).
template <class E, Direction kDirection>
__global__ void __launch_bounds__(kThreads) group_gradients_kernel(GroupPass<E> k) {
  __shared__ GroupShared<E> shared;
  const Place place = block_place(k.s.state_tiles, k.tile_count);
  const Tile tile = k.tiles[place.middle];
  const Chunk chunk = k.chunks[tile.chunk];
  const int64_t group = place.slow;
  const int64_t n0 = place.fast * kTile;
  const int64_t first = (group * k.s.tokens + tile.begin) * k.s.padded_states + n0;
  float d[kRows][kCols] = {};
  for (int64_t head = group; head < k.s.heads; head += k.s.groups)
    add_head<E, kDirection>(shared, k, tile, chunk, head, n0, k.own + first, d);
  TileSum<E> sum;
  sum.clear();
  add_pairs<E, kDirection>(sum, shared.tiles, k, tile, chunk, group, n0);
  __syncthreads();
  sum.write(shared.tiles.sum(), kSumPitch);
  __syncthreads();
  for_own([&](int i, int n, int r, int c) {
    if (i < tile.tokens)
      k.out.rows[first + i * k.s.padded_states + n] =
          d[r][c] + shared.tiles.sum()[i * kSumPitch + n];
  });
}

template <class E>
E* scratch(Context& ctx, int64_t n) {
  constexpr DType kType = std::is_same_v<E, float> ? DType::kF32 : DType::kBF16;
  return elements<E>(ctx.scratch().alloc(kType, {n}));
}

}  // namespace

template <class E>
PairGradients<E> pair_gradients(Context& ctx, const Plan& p, TokenHeads<const E> dy,
                                TokenHeads<const E> x, const float* products) {
  const int64_t sums = p.pair_count * p.s.heads * kTile;
  const PairGradients<E> out{.products = scratch<E>(ctx, p.pair_count * p.s.groups * kTile * kTile),
                             .rows = ctx.scratch().floats(sums),
                             .cols = ctx.scratch().floats(sums),
                             .diagonal = ctx.scratch().floats(p.s.heads * p.s.tokens)};
  const PairPass<E> k{out, dy, x, products, p.chunks, p.tiles, p.pairs, p.decays, p.s};
  const dim3 grid(static_cast<unsigned>(p.pair_count), static_cast<unsigned>(p.s.groups));
  launch(ctx, {grid, kThreads}, pair_gradients_kernel<E>, k);
  return out;
}
template PairGradients<float> pair_gradients(Context&, const Plan&, TokenHeads<const float>,
                                             TokenHeads<const float>, const float*);
template PairGradients<__nv_bfloat16> pair_gradients(Context&, const Plan&,
                                                     TokenHeads<const __nv_bfloat16>,
                                                     TokenHeads<const __nv_bfloat16>, const float*);

template <class E>
GroupGradients group_gradients(Context& ctx, const Plan& p, Direction direction,
                               TokenHeads<const E> v, StateView states, const E* own,
                               const E* other, const E* pairs) {
  const Sizes& s = p.s;
  const GroupGradients out{.rows = ctx.scratch().floats(s.groups * s.tokens * s.padded_states),
                           .dots = ctx.scratch().floats(s.state_tiles * s.heads * s.tokens)};
  const GroupPass<E> k{out,      v,       states,   own, other,       pairs,
                       p.chunks, p.tiles, p.decays, s,   p.tile_count};
  const dim3 grid(static_cast<unsigned>(p.tile_count * s.groups * s.state_tiles));
  if (direction == Direction::kForward)
    launch(ctx, {grid, kThreads}, group_gradients_kernel<E, Direction::kForward>, k);
  else
    launch(ctx, {grid, kThreads}, group_gradients_kernel<E, Direction::kBackward>, k);
  return out;
}
template GroupGradients group_gradients(Context&, const Plan&, Direction, TokenHeads<const float>,
                                        StateView, const float*, const float*, const float*);
template GroupGradients group_gradients(Context&, const Plan&, Direction,
                                        TokenHeads<const __nv_bfloat16>, StateView,
                                        const __nv_bfloat16*, const __nv_bfloat16*,
                                        const __nv_bfloat16*);

}  // namespace nestling::cuda::scan
