// scan_walk_forward.cu - y and the chunk states in one walk over the tokens: a block a run and head, a warp
// 16 channels, whose state [16, 128] stays in its registers.
//
// Tile          y = head_i C_i S + sum_{j <= i} M_ij x_j + D x, with M_ij = (C_i.B_j) L_ij dt_j made by the
//               block in shared memory; then S becomes kept S + (weighted x)^T B. The next tile is on its
//               way meanwhile.
// Runs          begin with what the runs before leave, added up from their sums.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_walk.cuh"

namespace nestling::cuda::scan {

namespace {

constexpr int kStages = 2;

struct ForwardPass {
  WalkForward w;
  const Run* runs;
  const Chunk* tiles;
  const Saved* saved;
  Decays decays;
  Sizes s;
};

struct ForwardShared {
  bf16_t B[kStages][kTile * kWide];
  bf16_t C[kStages][kTile * kWide];
  bf16_t x[kStages][kTile * kNarrow];
  bf16_t M[kTile * kNarrow];
  float2 sum[2][kTile];
  float dt[2][kTile], head[2][kTile], weight[2][kTile];
  float kept[2];
};

// What a warp knows of its block.
struct Warp {
  const ForwardPass& k;
  ForwardShared& shared;
  int64_t head, group;
  int first;  // channel

  __device__ void copy(int64_t step, const Rows& at) const {
    const int64_t stage = step % kStages;
    copy_group<kThreads>(shared.B[stage], k.w.B, at, group, k.s);
    copy_group<kThreads>(shared.C[stage], k.w.C, at, group, k.s);
    copy_heads<kThreads>(shared.x[stage], k.w.x, at, head, k.s);
  }
  __device__ Token token(const Rows& at) const {
    return load_token(k.decays, at, head * k.s.tokens, static_cast<int>(threadIdx.x) % kTile);
  }
  __device__ void put(int64_t step, const Token& t) const {
    const int64_t at = step % 2;
    const int i = static_cast<int>(threadIdx.x);
    if (i == 0) shared.kept[at] = kept_of(t);
    if (i >= kTile) return;
    shared.sum[at][i] = t.sum;
    shared.dt[at][i] = t.dt;
    shared.head[at][i] = head_of(t);
    shared.weight[at][i] = t.dt * tail_of(t);
  }
};

// The warp's rows of C B^T: what it needs of a tile to make M.
__device__ void load_products(float (&g)[8][4], const Warp& w, int64_t tile) {
  const float* from = w.k.w.products + (tile * w.k.s.groups + w.group) * kTile * kTile;
  each_pair_of(g, [&](int r, int c, float& a, float& b) {
    if (c > w.first + 15) return;  // the whole warp: above the diagonal
    const float2 v = *reinterpret_cast<const float2*>(from + (w.first + r) * kTile + c);
    a = v.x;
    b = v.y;
  });
}

// Rows `first` to `first` + 15 of M, zero above the diagonal; what lies right of them is not read.
__device__ void write_pairs(float (&g)[8][4], const Warp& w, int64_t at) {
  const float2* sums = w.shared.sum[at];
  const float* dt = w.shared.dt[at];
  each_pair_of(g, [&](int r, int c, float a, float b) {
    if (c > w.first + 15) return;  // the whole warp
    const int i = w.first + r;
    const float2 own = sums[i];
    a = c <= i ? a * decay(own, sums[c]) * dt[c] : 0.0f;
    b = c + 1 <= i ? b * decay(own, sums[c + 1]) * dt[c + 1] : 0.0f;
    put_pair(w.shared.M + i * kNarrow + c, a, b);
  });
}

using RowSums = float[4][2][4];  // [64 tokens, 16 channels]

// y = head_i C_i S
__device__ void read_state(RowSums& y, float (&state)[16][4], const Warp& w, int64_t step) {
#pragma unroll
  for (int m = 0; m < 4; ++m) clear(y[m]);
  const bf16_t* C = w.shared.C[step % kStages];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float(&low)[4] = state[2 * n];
    const float(&high)[4] = state[2 * n + 1];
    const uint32_t b[4] = {bits_of(low[0], low[1]), bits_of(high[0], high[1]),
                           bits_of(low[2], low[3]), bits_of(high[2], high[3])};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t a[4];
      load_rows(a, C + 16 * m * kWide + 16 * n, kWide);
      add_product(y[m][0], a, b[0], b[1]);
      add_product(y[m][1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float head = w.shared.head[step % 2][16 * m + own_lane() / 4 + 8 * h];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        y[m][p][2 * h] *= head;
        y[m][p][2 * h + 1] *= head;
      }
    }
}

// y += M x
__device__ void read_tokens(RowSums& y, const Warp& w, const bf16_t* x) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t b[4];
    load_rows_t(b, x + 16 * j * kNarrow, kNarrow);
#pragma unroll
    for (int m = j; m < 4; ++m) {
      uint32_t a[4];
      load_rows(a, w.shared.M + 16 * m * kNarrow + 16 * j, kNarrow);
      add_product(y[m][0], a, b[0], b[1]);
      add_product(y[m][1], a, b[2], b[3]);
    }
  }
}

// y + D x, in the place of the warp's x, and from there to memory.
__device__ void write_tokens(RowSums& y, const Warp& w, bf16_t* x, const Rows& at) {
  const float skip = w.k.w.D[w.head];
#pragma unroll
  for (int m = 0; m < 4; ++m)
    each_pair_of(y[m], [&](int r, int c, float a, float b) {
      bf16_t* to = x + (16 * m + r) * kNarrow + c;
      const float2 own = get_pair(to);
      put_pair(to, a + skip * own.x, b + skip * own.y);
    });
  __syncwarp();
  const TokenHeads<bf16_t>& out = w.k.w.y;
  bf16_t* to = out.data + at.begin * out.token + w.head * out.head + w.first;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = 16 * i + own_lane() / 2;
    const int c = own_lane() % 2 * 8;
    if (r >= at.count) break;
    const bf16_t* from = x + r * kNarrow + c;
    if (out.vector && w.first + c + 8 <= w.k.s.channels) {
      *reinterpret_cast<uint4*>(to + r * out.token + c) = *reinterpret_cast<const uint4*>(from);
      continue;
    }
    for (int j = 0; j < 8 && w.first + c + j < w.k.s.channels; ++j)
      to[r * out.token + c + j] = from[j];
  }
}

// The state before the run. `run` counts all runs.
__device__ void first_state(float (&state)[16][4], const Warp& w, const Run& own, int64_t index) {
  const StateView& from = w.k.w.initial;
  if (from.data != nullptr)
    load_state(state, state_rows<const float>(from, own.segment, w.head, w.first, 0, w.k.s));
  else
    clear(state);
  for (int64_t r = index - own.before; r < index; ++r) {
    const int64_t at = r * w.k.s.heads + w.head;
    const float kept = expf(fminf(w.k.w.sums.logs[at], 0.0f));
    const StateRows<const float> run{w.k.w.sums.states + at * kStateSize + w.first * kStates,
                                     kStates, 16, static_cast<int>(w.k.s.padded_states), true};
    each_of_state(state, run, [&](const float* added, int left, float& a, float& b) {
      if (left < 2) return;
      const float2 v = *reinterpret_cast<const float2*>(added);
      a = kept * a + v.x;
      b = kept * b + v.y;
    });
  }
}

__device__ void keep_state(float (&state)[16][4], const Warp& w, const StateView& to,
                           int64_t slot) {
  if (to.data == nullptr) return;
  store_state(state, state_rows<float>(to, slot, w.head, w.first, 0, w.k.s));
}

__global__ void __launch_bounds__(kThreads, 2) walk_forward_kernel(ForwardPass k) {
  auto& shared = *dynamic_shared<ForwardShared>();
  const Place place = block_place(k.s.heads, 1);
  const Run run = k.runs[place.slow];
  const Warp w{k, shared, place.fast, place.fast % k.s.groups,
               static_cast<int>(threadIdx.x) / kWarp * 16};
  Rows at = rows_of(k.tiles[run.first]);
  w.copy(0, at);
  close_copies();
  w.put(0, w.token(at));
  float state[16][4];
  first_state(state, w, run, place.slow);
  float products[8][4];
  load_products(products, w, run.first);
  Rows next = rows_of(k.tiles[run.first + min(int64_t{1}, run.count - 1)]);
  for (int64_t step = 0; step < run.count; ++step) {
    const int64_t tile = run.first + step;
    const int64_t after = run.first + min(step + 1, run.count - 1);
    wait_for_copies<0>();
    __syncthreads();
    if (step + 1 < run.count) w.copy(step + 1, next);
    close_copies();
    write_pairs(products, w, step % 2);
    load_products(products, w, after);
    const Token token = w.token(next);
    const Saved saved = k.saved[tile];
    if (saved.place == 0) keep_state(state, w, k.w.chunk_states, saved.chunk);
    RowSums y;
    read_state(y, state, w, step);
    scale_all(state, shared.kept[step % 2]);
    bf16_t* x = shared.x[step % kStages] + w.first;
    add_tokens(state, x, shared.B[step % kStages], kWide, shared.weight[step % 2]);
    __syncthreads();  // M is whole
    read_tokens(y, w, x);
    __syncwarp();
    write_tokens(y, w, x, at);
    w.put(step + 1, token);
    at = next;
    next = rows_of(k.tiles[run.first + min(step + 2, run.count - 1)]);
  }
  wait_for_copies<0>();
  if (run.after == 0) keep_state(state, w, k.w.final_state, run.segment);
}

}  // namespace

void walk_forward(Context& ctx, const Plan& p, const WalkForward& w) {
  const ForwardPass k{w, p.runs, p.chunks, p.saved, p.decays, p.s};
  const dim3 grid(static_cast<unsigned>(p.run_count * p.s.heads));
  launch(ctx, {grid, kThreads, sizeof(ForwardShared)}, walk_forward_kernel, k);
}

}  // namespace nestling::cuda::scan
