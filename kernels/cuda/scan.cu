// scan.cu - the Mamba-2 recurrence over chunks, forward. Chunks run side by side in three passes:
//   1. every chunk from a zero state: what it leaves behind, and how much it decays what came in
//   2. along each segment: the state before every chunk
//   3. every chunk from the state before it: y
// Within a chunk the recurrence itself is run, the state in registers: no product of decays is ever
// divided out, so any chunk length and any decay are safe.
//
// Limits        N <= 256. B and C are read one state per G elements; the heads of the other groups
//               read the rest of each line from L2.
#include <algorithm>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/scan.h"

namespace nestling::cuda {

namespace {

// A block holds [kTileP, N] of one head's state: 8 warps of 4 x 8 lanes; a lane has 2 channels and
// every eighth run of 4 states.
constexpr int kThreads = 256;
constexpr int kTileP = 64;
constexpr int kLanesN = 8;
constexpr int kLaneP = 2;
constexpr int kRun = 4;
constexpr int kTime = 16;  // tokens staged in shared memory at a time

struct Chunk {
  int64_t begin;  // token
  int64_t length;
};

struct StateView {  // [slots, H, P, N]; data null: absent
  float* data = nullptr;
  int64_t slot, head, channel;
};

struct Recurrence {
  float* y;  // null: only the state is wanted
  const float *x, *dt_raw, *B, *C, *A_log, *D, *dt_bias;
  int64_t y_t, y_h, x_t, x_h, dt_t, B_t, B_n, C_t, C_n;  // strides
  const Chunk* chunks;
  StateView before;  // read, slot = chunk; absent: zero
  StateView after;   // written
  float* decay;      // [chunks, H] written; null: not wanted
  int64_t heads, channels, states, groups;
};

struct Staged {
  float decay[kTime];
  float dt[kTime];
};

// B (or C) of kTime tokens, [kTime, kStates], zero behind N and behind the chunk.
template <int kStates>
__device__ void stage_states(float* to, const float* from, int64_t stride_t, int64_t stride_n,
                             int64_t tokens, int64_t states) {
  for (int i = threadIdx.x; i < kTime * kStates; i += kThreads) {
    const int t = i / kStates;
    const int n = i % kStates;
    to[i] = t < tokens && n < states ? from[t * stride_t + n * stride_n] : 0.0f;
  }
}

template <int kRuns>
struct LaneState {
  float s[kLaneP][kRuns][kRun];
};

// Where this lane's states lie.
__device__ int lane_state(int run) {
  return run * kLanesN * kRun + threadIdx.x % kLanesN * kRun;
}
__device__ int lane_channel() {
  return threadIdx.x / kLanesN * kLaneP;
}

template <int kRuns>
__device__ void load_state(LaneState<kRuns>& lane, const StateView& v, int64_t slot, int64_t head,
                           int64_t first_channel, const Recurrence& r) {
#pragma unroll
  for (int p = 0; p < kLaneP; ++p)
#pragma unroll
    for (int j = 0; j < kRuns; ++j)
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int64_t channel = first_channel + lane_channel() + p;
        const int64_t n = lane_state(j) + i;
        const bool inside = v.data != nullptr && channel < r.channels && n < r.states;
        lane.s[p][j][i] =
            inside ? v.data[slot * v.slot + head * v.head + channel * v.channel + n] : 0.0f;
      }
}

template <int kRuns>
__device__ void store_state(const LaneState<kRuns>& lane, const StateView& v, int64_t slot,
                            int64_t head, int64_t first_channel, const Recurrence& r) {
#pragma unroll
  for (int p = 0; p < kLaneP; ++p)
#pragma unroll
    for (int j = 0; j < kRuns; ++j)
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int64_t channel = first_channel + lane_channel() + p;
        const int64_t n = lane_state(j) + i;
        if (channel < r.channels && n < r.states)
          v.data[slot * v.slot + head * v.head + channel * v.channel + n] = lane.s[p][j][i];
      }
}

// One token: S = a S + dt x B^T, and the lane's share of S C.
template <int kRuns, bool kOutput>
__device__ void advance(LaneState<kRuns>& lane, float (&y)[kLaneP], float decay, float dt,
                        const float* x, const float* B, const float* C) {
#pragma unroll
  for (int p = 0; p < kLaneP; ++p) {
    const float dtx = dt * x[lane_channel() + p];
    y[p] = 0.0f;
#pragma unroll
    for (int j = 0; j < kRuns; ++j) {
      const float4 b = *reinterpret_cast<const float4*>(B + lane_state(j));
      float* s = lane.s[p][j];
      s[0] = decay * s[0] + dtx * b.x;
      s[1] = decay * s[1] + dtx * b.y;
      s[2] = decay * s[2] + dtx * b.z;
      s[3] = decay * s[3] + dtx * b.w;
      if constexpr (kOutput) {
        const float4 c = *reinterpret_cast<const float4*>(C + lane_state(j));
        y[p] += s[0] * c.x + s[1] * c.y + s[2] * c.z + s[3] * c.w;
      }
    }
  }
}

// Block (chunk, head, tile of channels).
template <int kRuns, bool kOutput>
__global__ void __launch_bounds__(kThreads) recurrence_kernel(Recurrence r) {
  constexpr int kStates = kRuns * kLanesN * kRun;
  __shared__ __align__(16) float B[kTime * kStates];
  __shared__ __align__(16) float C[kOutput ? kTime * kStates : 1];
  __shared__ float x[kTime * kTileP];
  __shared__ Staged staged;
  const Chunk chunk = r.chunks[blockIdx.x];
  const int64_t head = blockIdx.y;
  const int64_t group = head % r.groups;
  const int64_t first_channel = int64_t{blockIdx.z} * kTileP;
  const float rate = -expf(r.A_log[head]);
  LaneState<kRuns> lane;
  load_state(lane, r.before, blockIdx.x, head, first_channel, r);
  float log_decay = 0.0f;  // of the chunk; kept by thread 0

  for (int64_t at = 0; at < chunk.length; at += kTime) {
    const int64_t token = chunk.begin + at;
    const int64_t tokens = min(int64_t{kTime}, chunk.length - at);
    __syncthreads();  // the tokens before have been read
    stage_states<kStates>(B, r.B + token * r.B_t + group, r.B_t, r.B_n, tokens, r.states);
    if constexpr (kOutput)
      stage_states<kStates>(C, r.C + token * r.C_t + group, r.C_t, r.C_n, tokens, r.states);
    for (int i = threadIdx.x; i < kTime * kTileP; i += kThreads) {
      const int64_t t = i / kTileP;
      const int64_t channel = first_channel + i % kTileP;
      const bool inside = t < tokens && channel < r.channels;
      x[i] = inside ? r.x[(token + t) * r.x_t + head * r.x_h + channel] : 0.0f;
    }
    if (threadIdx.x < tokens) {
      const float dt = softplus(r.dt_raw[(token + threadIdx.x) * r.dt_t + head] + r.dt_bias[head]);
      staged.dt[threadIdx.x] = dt;
      staged.decay[threadIdx.x] = expf(rate * dt);
    }
    __syncthreads();
    for (int t = 0; t < tokens; ++t) {
      float y[kLaneP];
      advance<kRuns, kOutput>(lane, y, staged.decay[t], staged.dt[t], x + t * kTileP,
                              B + t * kStates, C + (kOutput ? t * kStates : 0));
      log_decay += rate * staged.dt[t];
      if constexpr (kOutput) {
#pragma unroll
        for (int p = 0; p < kLaneP; ++p) {
          const float sum = warp_sum<kLanesN>(y[p]);
          const int c = lane_channel() + p;
          if (threadIdx.x % kLanesN == 0 && first_channel + c < r.channels)
            r.y[(token + t) * r.y_t + head * r.y_h + first_channel + c] =
                sum + r.D[head] * x[t * kTileP + c];
        }
      }
    }
  }
  if (r.after.data != nullptr) store_state(lane, r.after, blockIdx.x, head, first_channel, r);
  if (r.decay != nullptr && threadIdx.x == 0 && blockIdx.z == 0)
    r.decay[blockIdx.x * r.heads + head] = expf(log_decay);
}

struct Chain {
  StateView states;            // slot = chunk: in, what each chunk leaves; out, the state before it
  StateView initial;           // slot = segment
  StateView last;              // slot = segment
  const float* decay;          // [chunks, H]
  const int64_t* first_chunk;  // [segments + 1]
  int64_t heads, channels, width;
};

// Block (segment, head, run of elements of [P, N]).
__global__ void chain_kernel(Chain c) {
  const int64_t segment = blockIdx.x;
  const int64_t head = blockIdx.y;
  const int64_t i = int64_t{blockIdx.z} * kThreads + threadIdx.x;
  if (i >= c.channels * c.width) return;
  const int64_t channel = i / c.width;
  const int64_t n = i % c.width;
  const auto at = [&](const StateView& v, int64_t slot) -> float& {
    return v.data[slot * v.slot + head * v.head + channel * v.channel + n];
  };
  float state = c.initial.data != nullptr ? at(c.initial, segment) : 0.0f;
  for (int64_t k = c.first_chunk[segment]; k < c.first_chunk[segment + 1]; ++k) {
    const float left = at(c.states, k);
    at(c.states, k) = state;
    state = c.decay[k * c.heads + head] * state + left;
  }
  if (c.last.data != nullptr) at(c.last, segment) = state;
}

template <class V>
StateView state_view(V v) {
  if (!v) return {};
  return {const_cast<float*>(v.template ptr<float>()), v.stride(0), v.stride(1), v.stride(2)};
}

// What forward and step give in the same words.
template <class Args>
Recurrence recurrence_of(const Args& a) {
  return {.y = a.y.template ptr<float>(),
          .x = a.x.template ptr<float>(),
          .dt_raw = a.dt_raw.template ptr<float>(),
          .B = a.B.template ptr<float>(),
          .C = a.C.template ptr<float>(),
          .A_log = a.A_log.template ptr<float>(),
          .D = a.D.template ptr<float>(),
          .dt_bias = a.dt_bias.template ptr<float>(),
          .y_t = a.y.stride(0),
          .y_h = a.y.stride(1),
          .x_t = a.x.stride(0),
          .x_h = a.x.stride(1),
          .dt_t = a.dt_raw.stride(0),
          .B_t = a.B.stride(0),
          .B_n = a.B.stride(1),
          .C_t = a.C.stride(0),
          .C_n = a.C.stride(1),
          .chunks = nullptr,
          .before = {},
          .after = {},
          .decay = nullptr,
          .heads = a.x.dim(1),
          .channels = a.x.dim(2),
          .states = a.B.dim(1),
          .groups = a.B.dim(2)};
}

template <bool kOutput>
void launch_recurrence(Context& ctx, const Recurrence& r, int64_t chunks) {
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(r.heads),
                  static_cast<unsigned>((r.channels + kTileP - 1) / kTileP));
  NESTLING_CHECK(r.states <= 256, "scan: ", r.states, " states, the CUDA kernel holds 256");
  if (r.states <= 64)
    launch(ctx, {grid, kThreads}, recurrence_kernel<2, kOutput>, r);
  else if (r.states <= 128)
    launch(ctx, {grid, kThreads}, recurrence_kernel<4, kOutput>, r);
  else
    launch(ctx, {grid, kThreads}, recurrence_kernel<8, kOutput>, r);
}

}  // namespace

void run(Context& ctx, const ScanForward& a) {
  const Arena::Mark mark(ctx.scratch());
  std::vector<Chunk> chunks;
  std::vector<int64_t> first_chunk{0};
  for (int64_t s = 0; s < a.segments.count(); ++s) {
    for (int64_t at = a.segments.begin(s); at < a.segments.end(s); at += a.chunk)
      chunks.push_back({at, std::min(a.chunk, a.segments.end(s) - at)});
    first_chunk.push_back(static_cast<int64_t>(chunks.size()));
  }
  const auto count = static_cast<int64_t>(chunks.size());
  Recurrence r = recurrence_of(a);
  const View states =
      a.chunk_states ? a.chunk_states
                     : ctx.scratch().alloc(DType::kF32, {count, r.heads, r.channels, r.states});
  r.chunks = upload(ctx, chunks);
  r.after = state_view(states);
  r.decay = ctx.scratch().floats(count * r.heads);
  launch_recurrence<false>(ctx, r, count);

  const Chain chain{.states = state_view(states),
                    .initial = state_view(a.initial),
                    .last = state_view(a.final_state),
                    .decay = r.decay,
                    .first_chunk = upload(ctx, first_chunk),
                    .heads = r.heads,
                    .channels = r.channels,
                    .width = r.states};
  const dim3 grid(static_cast<unsigned>(a.segments.count()), static_cast<unsigned>(r.heads),
                  static_cast<unsigned>((r.channels * r.states + kThreads - 1) / kThreads));
  launch(ctx, {grid, kThreads}, chain_kernel, chain);

  r.before = state_view(states);
  r.after = {};
  r.decay = nullptr;
  launch_recurrence<true>(ctx, r, count);
}

void run(Context& ctx, const ScanStep& a) {
  const Arena::Mark mark(ctx.scratch());
  std::vector<Chunk> tokens;
  for (int64_t i = 0; i < a.x.dim(0); ++i) tokens.push_back({i, 1});
  if (tokens.empty()) return;
  Recurrence r = recurrence_of(a);
  r.chunks = upload(ctx, tokens);
  r.before = state_view(a.state);
  r.after = r.before;
  launch_recurrence<true>(ctx, r, a.x.dim(0));
}

}  // namespace nestling::cuda
