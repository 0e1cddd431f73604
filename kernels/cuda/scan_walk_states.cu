// scan_walk_states.cu - states and their gradients carried from tile to tile: a block a run, head and 64
// states, a warp 16 channels. The next two tiles are on their way while one is multiplied.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_walk.cuh"

namespace nestling::cuda::scan {

namespace {

constexpr int kStages = 3;

struct Walk {
  TokenHeads<const bf16_t> v;
  const bf16_t* u;
  const Run* runs;
  const Chunk* tiles;
  Decays decays;
  Sizes s;
  RunSums sums;           // forward
  bf16_t* dstates_after;  // backward
};

struct WalkShared {
  bf16_t v[kStages][kTile * kNarrow];
  bf16_t u[kStages][kTile * kNarrow];
  bf16_t patch[kThreads / kWarp][16 * kNarrow];
  float weight[2][kTile];
  float kept[2];
};

// The gradient of the state after a tile, rounded, from the warp's sums: by 16 bytes.
__device__ void write_dstate(float (&state)[8][4], bf16_t* patch, bf16_t* to) {
  each_pair_of(state,
               [&](int r, int c, float a, float b) { put_pair(patch + r * kNarrow + c, a, b); });
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = i * 4 + own_lane() / 8;
    const int c = own_lane() % 8 * 8;
    *reinterpret_cast<uint4*>(to + r * kStates + c) =
        *reinterpret_cast<const uint4*>(patch + r * kNarrow + c);
  }
  __syncwarp();
}

// Step i of a run is a tile: the i-th, or backward the i-th from its end.
template <Direction kDirection>
struct Walker {
  static constexpr bool kForward = kDirection == Direction::kForward;
  const Walk& k;
  WalkShared& shared;
  Run run;
  int64_t head, n0;

  __device__ int64_t tile(int64_t step) const {
    const int64_t i = min(step, run.count - 1);
    return run.first + (kForward ? i : run.count - 1 - i);
  }
  __device__ Rows at(int64_t step) const { return rows_of(k.tiles[tile(step)]); }
  __device__ void copy(int64_t step, const Rows& at) const {
    if (step < run.count) {
      copy_heads<kThreads>(shared.v[step % kStages], k.v, at, head, k.s);
      const int64_t row = head % k.s.groups * k.s.tokens + at.begin;
      copy_padded<kTile, kThreads>(shared.u[step % kStages], k.u + row * k.s.padded_states + n0,
                                   k.s.padded_states, at.count, kTile, true);
    }
    close_copies();
  }
  __device__ Token token(const Rows& at) const {
    return load_token(k.decays, at, head * k.s.tokens, static_cast<int>(threadIdx.x) % kTile);
  }
  __device__ void put(int64_t step, const Token& t) const {
    if (threadIdx.x < kTile)
      shared.weight[step % 2][threadIdx.x] = kForward ? t.dt * tail_of(t) : head_of(t);
    if (threadIdx.x == 0) shared.kept[step % 2] = kept_of(t);
  }
};

template <Direction kDirection>
__global__ void __launch_bounds__(kThreads, 3) walk_kernel(Walk k) {
  constexpr bool kForward = kDirection == Direction::kForward;
  auto& shared = *dynamic_shared<WalkShared>();
  const Place place = block_place(k.s.state_tiles, k.s.heads);
  const Walker<kDirection> w{k, shared, k.runs[place.slow], place.middle, place.fast * kTile};
  if (kForward && w.run.after == 0) return;  // no run reads it
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float state[8][4];
  clear(state);
  double log = 0.0;  // of the decay across the run
  w.copy(0, w.at(0));
  w.copy(1, w.at(1));
  Token next = w.token(w.at(0));
  w.put(0, next);
  log += static_cast<double>(next.whole.x) + static_cast<double>(next.whole.y);
  next = w.token(w.at(1));
  Rows ahead = w.at(2);
  for (int64_t step = 0; step < w.run.count; ++step) {
    wait_for_copies<1>();
    __syncthreads();
    w.copy(step + 2, ahead);
    const Token after = w.token(ahead);
    ahead = w.at(step + 3);
    if constexpr (!kForward)
      write_dstate(state, shared.patch[warp],
                   k.dstates_after + (w.tile(step) * k.s.heads + w.head) * kStateSize +
                       16 * warp * kStates + w.n0);
    scale_all(state, shared.kept[step % 2]);
    add_tokens(state, shared.v[step % kStages] + 16 * warp, shared.u[step % kStages], kNarrow,
               shared.weight[step % 2]);
    w.put(step + 1, next);
    if (step + 1 < w.run.count)
      log += static_cast<double>(next.whole.x) + static_cast<double>(next.whole.y);
    next = after;
  }
  wait_for_copies<0>();
  if constexpr (kForward) {
    const int64_t at = place.slow * k.s.heads + w.head;
    store_state(state,
                StateRows<float>{k.sums.states + at * kStateSize + 16 * warp * kStates + w.n0,
                                 kStates, 16, kTile, true});
    if (threadIdx.x == 0 && w.n0 == 0) k.sums.logs[at] = static_cast<float>(log);
  }
}

template <Direction kDirection>
void launch_walk(Context& ctx, const Plan& p, Walk k) {
  k.runs = p.runs;
  k.tiles = p.chunks;
  k.decays = p.decays;
  k.s = p.s;
  const dim3 grid(static_cast<unsigned>(p.run_count * p.s.heads * p.s.state_tiles));
  launch(ctx, {grid, kThreads, sizeof(WalkShared)}, walk_kernel<kDirection>, k);
}

}  // namespace

bool walks(Context& ctx, ConstView x, ConstView B) {
  return x.dtype() == DType::kBF16 && x.dim(2) <= kTile && B.dim(1) <= kStates &&
         ctx.cuda().block_bytes >= kWalkBytes;
}

RunSums run_sums(Context& ctx, const Plan& p, TokenHeads<const bf16_t> x, const bf16_t* B) {
  if (p.run_count == p.segment_count) return {};
  Walk k{};
  k.v = x;
  k.u = B;
  k.sums = {ctx.scratch().floats(p.run_count * p.s.heads * kStateSize),
            ctx.scratch().floats(p.run_count * p.s.heads)};
  launch_walk<Direction::kForward>(ctx, p, k);
  return k.sums;
}

const bf16_t* dstates_after(Context& ctx, const Plan& p, TokenHeads<const bf16_t> dy,
                            const bf16_t* C) {
  Walk k{};
  k.v = dy;
  k.u = C;
  k.dstates_after =
      bf16_of(ctx.scratch().alloc(DType::kBF16, {p.tile_count, p.s.heads, kTile, kStates}));
  launch_walk<Direction::kBackward>(ctx, p, k);
  return k.dstates_after;
}

}  // namespace nestling::cuda::scan
