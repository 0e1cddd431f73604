// state_score.cu - the recurrence token by token, every state in a register, and the length of every component.
//
// Blocks        a segment, a group, 512 of its rows (h, p) and 8 components n. A lane holds 8 rows of a component;
//               the four lanes of a component and the 16 warps add their squares up.
// Tokens        16 at a time: what their rows take in and how they decay go through shared memory, and so do
//               the squares of 16 warps on their way out.
// Passes        dt and decays of (t, h); squares [T, N, G] of each 512 rows; |C| times their root; magnitudes
//               of that (unit_sums.h), which adds tokens in f64.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/state_score.h"
#include "kernels/ops/unit_sums.h"

namespace nestling::cuda {

namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStates = 8;                     // of a block
constexpr int kLanes = kWarp / kStates;        // that share a component
constexpr int kOwn = 8;                        // rows of a lane
constexpr int kRows = kWarps * kLanes * kOwn;  // of a block: one a thread where they are loaded
constexpr int kTokens = 16;                    // at a time
static_assert(kRows == kThreads && kTokens * kStates <= kThreads);

struct Staged {
  float input[kTokens][kRows];  // dt x
  float decay[kTokens][kRows];
  float B[kTokens][kStates];
  float squares[kTokens][kWarps][kStates];
};

struct HeadScalars {
  float *dt, *decay;  // [T, H]
  const float *dt_raw, *A_log, *dt_bias;
  int64_t dt_t, tokens, heads;
};
__global__ void scalars_kernel(HeadScalars k) {
  for (int64_t i = first_item(); i < k.tokens * k.heads; i += item_step()) {
    const int64_t h = i % k.heads;
    const float dt = softplus(k.dt_raw[i / k.heads * k.dt_t + h] + k.dt_bias[h]);
    k.dt[i] = dt;
    k.decay[i] = expf(-expf(k.A_log[h]) * dt);
  }
}

template <class E>
struct Walk {
  float* squares;  // [row tiles, T, N, G]
  const E *x, *B;
  const float *dt, *decay;
  int64_t x_t, x_h, B_t, B_n;
  int64_t tokens, heads, channels, states, groups, state_tiles;
  DeviceSegments segments;
};

// What the rows of a block take in at tokens first .. first + count - 1; a thread fills its row.
template <class E>
__device__ void stage(Staged& to, const Walk<E>& k, int64_t first, int count, int64_t group,
                      int64_t row, int64_t first_state) {
  const int at = static_cast<int>(threadIdx.x);
  const bool inside = row < k.heads / k.groups * k.channels;
  const int64_t head = row / k.channels * k.groups + group;
  const E* x = k.x + head * k.x_h + row % k.channels;
  for (int i = 0; i < count; ++i) {
    const int64_t t = first + i;
    to.input[i][at] = inside ? k.dt[t * k.heads + head] * load(x + t * k.x_t) : 0.0f;
    to.decay[i][at] = inside ? k.decay[t * k.heads + head] : 0.0f;
  }
  const int i = at / kStates;
  const int64_t n = first_state + at % kStates;
  if (i < count)
    to.B[i][at % kStates] =
        n < k.states ? load(k.B + (first + i) * k.B_t + n * k.B_n + group) : 0.0f;
}

// One token: the states of this lane, and the squares of its component over the warp's rows.
__device__ float advance(float (&state)[kOwn], const Staged& s, int token, int first_row, float B) {
  float square = 0.0f;
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    state[r] = fmaf(s.decay[token][first_row + r], state[r], s.input[token][first_row + r] * B);
    square = fmaf(state[r], state[r], square);
  }
#pragma unroll
  for (int offset = kStates; offset < kWarp; offset *= 2)
    square += __shfl_xor_sync(0xffffffffu, square, offset);
  return square;
}

template <class E>
__global__ void __launch_bounds__(kThreads) squares_kernel(Walk<E> k) {
  auto& s = *dynamic_shared<Staged>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t group = blockIdx.y / k.state_tiles;
  const int64_t first_state = blockIdx.y % k.state_tiles * kStates;
  const int64_t row = int64_t{blockIdx.z} * kRows + threadIdx.x;
  const int first_row = (warp * kLanes + lane / kStates) * kOwn;
  float state[kOwn] = {};
  const int64_t end = k.segments.offsets[blockIdx.x + 1];
  for (int64_t first = k.segments.offsets[blockIdx.x]; first < end; first += kTokens) {
    const int count = static_cast<int>(min(int64_t{kTokens}, end - first));
    stage(s, k, first, count, group, row, first_state);
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      const float square = advance(state, s, i, first_row, s.B[i][lane % kStates]);
      if (lane < kStates) s.squares[i][warp][lane] = square;
    }
    __syncthreads();
    const int i = static_cast<int>(threadIdx.x) / kStates;
    const int64_t n = first_state + threadIdx.x % kStates;
    if (i < count && n < k.states) {
      float total = s.squares[i][0][threadIdx.x % kStates];
      for (int w = 1; w < kWarps; ++w) total += s.squares[i][w][threadIdx.x % kStates];
      const int64_t token = int64_t{blockIdx.z} * k.tokens + first + i;
      k.squares[(token * k.states + n) * k.groups + group] = total;
    }
  }
}

template <class E>
struct Lengths {
  float* squares;  // [row tiles, T, N, G]; the first tile's become the lengths
  const E* C;
  int64_t C_t, C_n, tokens, states, groups, row_tiles;
};
template <class E>
__global__ void lengths_kernel(Lengths<E> k) {
  const int64_t width = k.states * k.groups;
  for (int64_t i = first_item(); i < k.tokens * width; i += item_step()) {
    float square = k.squares[i];
    for (int64_t tile = 1; tile < k.row_tiles; ++tile)
      square += k.squares[tile * k.tokens * width + i];
    const int64_t unit = i % width;
    const E* C = k.C + i / width * k.C_t + unit / k.groups * k.C_n + unit % k.groups;
    k.squares[i] = fabsf(load(C)) * sqrtf(square);
  }
}

template <class E>
void score(Context& ctx, const StateScore& a) {
  const int64_t tokens = a.x.dim(0), heads = a.x.dim(1), channels = a.x.dim(2);
  const int64_t states = a.B.dim(1), groups = a.B.dim(2);
  const int64_t row_tiles = (heads / groups * channels + kRows - 1) / kRows;
  const int64_t state_tiles = (states + kStates - 1) / kStates;
  Arena& scratch = ctx.scratch();
  const HeadScalars scalars{.dt = scratch.floats(tokens * heads),
                            .decay = scratch.floats(tokens * heads),
                            .dt_raw = a.dt_raw.ptr<float>(),
                            .A_log = a.A_log.ptr<float>(),
                            .dt_bias = a.dt_bias.ptr<float>(),
                            .dt_t = a.dt_raw.stride(0),
                            .tokens = tokens,
                            .heads = heads};
  launch(ctx, {blocks_for(tokens * heads), 256}, scalars_kernel, scalars);
  const View squares = scratch.alloc(DType::kF32, {row_tiles * tokens, states * groups});
  const Walk<E> walk{.squares = squares.ptr<float>(),
                     .x = elements<E>(a.x),
                     .B = elements<E>(a.B),
                     .dt = scalars.dt,
                     .decay = scalars.decay,
                     .x_t = a.x.stride(0),
                     .x_h = a.x.stride(1),
                     .B_t = a.B.stride(0),
                     .B_n = a.B.stride(1),
                     .tokens = tokens,
                     .heads = heads,
                     .channels = channels,
                     .states = states,
                     .groups = groups,
                     .state_tiles = state_tiles,
                     .segments = upload(ctx, a.segments)};
  launch(ctx,
         {.blocks =
              dim3(static_cast<unsigned>(a.segments.count()),
                   static_cast<unsigned>(groups * state_tiles), static_cast<unsigned>(row_tiles)),
          .threads = kThreads,
          .shared_bytes = sizeof(Staged)},
         squares_kernel<E>, walk);
  const Lengths<E> lengths{.squares = walk.squares,
                           .C = elements<E>(a.C),
                           .C_t = a.C.stride(0),
                           .C_n = a.C.stride(1),
                           .tokens = tokens,
                           .states = states,
                           .groups = groups,
                           .row_tiles = row_tiles};
  launch(ctx, {blocks_for(tokens * states * groups), 256}, lengths_kernel<E>, lengths);
  run(ctx,
      MagnitudeSums{.sums = a.score.reshape({states * groups}), .x = squares.prefix(0, tokens)});
}

}  // namespace

void run(Context& ctx, const StateScore& a) {
  const Arena::Mark mark(ctx.scratch());
  with_elements(a.x, [&](auto x) { score<decltype(x)>(ctx, a); });
}

}  // namespace nestling::cuda
