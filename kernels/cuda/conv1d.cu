// conv1d.cu - the causal convolution: a thread owns a channel and walks a run of tokens of one segment, its
// last K-1 inputs in registers; neighbouring threads own neighbouring channels.
//
// Runs          kRun tokens at most, in a table made on the host; a run reads the K-1 inputs before it again.
// Backward      du = dy silu'(sum) is computed once a token and, for the K-1 tokens behind a run, once more by
//               the run before: dx follows K-1 tokens behind du. A block takes several runs and keeps
//               their sums of dw and dbias in registers: one part a block.
// Limits        K <= 8: the taps are counted at compile time.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/upload.h"
#include "kernels/ops/conv1d.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostTaps = 8;
constexpr int kTile = 8;            // tokens whose loads are in flight together
constexpr int64_t kRun = 64;        // tokens
constexpr int64_t kMaxParts = 256;  // of the sums of dw and dbias

struct Run {
  int32_t segment;
  int32_t first, last;  // tokens of the segment
  int32_t begin, end;   // of the run
};

std::vector<Run> make_runs(const Segments& segments) {
  std::vector<Run> runs;
  for (int64_t s = 0; s < segments.count(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); t += kRun)
      runs.push_back({static_cast<int32_t>(s), static_cast<int32_t>(segments.begin(s)),
                      static_cast<int32_t>(segments.end(s)), static_cast<int32_t>(t),
                      static_cast<int32_t>(std::min(t + kRun, segments.end(s)))});
  return runs;
}

// [slots, C, K-1]; data null: zeros.
template <class T>
struct States {
  T* data = nullptr;
  int64_t slot = 0, channel = 0;
};
States<float> states_of(View v) {
  if (!v) return {};
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}
States<const float> states_of(ConstView v) {
  if (!v) return {};
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}

template <class X>
struct Input {
  const X* x;
  int64_t pitch, channels;
  States<const float> initial;
  const float* w;
  int64_t w_pitch;
  const float* bias;
};

template <class X>
Input<X> input_of(ConstView x, ConstView initial, ConstView w, ConstView bias) {
  return {.x = elements<X>(x),
          .pitch = x.stride(0),
          .channels = x.dim(1),
          .initial = states_of(initial),
          .w = w.ptr<float>(),
          .w_pitch = w.stride(0),
          .bias = optional_floats(bias)};
}

__device__ int64_t channel_of_thread() {
  return int64_t{blockIdx.y} * kThreads + threadIdx.x;
}

// The input of token t, which may lie before the segment's first.
template <class X>
__device__ float input_at(const Input<X>& in, int64_t segment, int64_t first, int64_t t, int64_t c,
                          int history) {
  if (t >= first) return load(in.x + t * in.pitch + c);
  if (in.initial.data == nullptr) return 0.0f;
  return in.initial.data[segment * in.initial.slot + c * in.initial.channel + history + t - first];
}

template <int kTaps>
struct Taps {
  float w[kTaps];
  float bias;
};
template <int kTaps, class X>
__device__ Taps<kTaps> load_taps(const Input<X>& in, int64_t c) {
  Taps<kTaps> taps;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) taps.w[k] = in.w[c * in.w_pitch + k];
  taps.bias = in.bias != nullptr ? in.bias[c] : 0.0f;
  return taps;
}

// x [K]: the input under each tap. Forward, backward and step add in this one order.
template <int kTaps>
__device__ float tap_sum(const Taps<kTaps>& taps, const float* x) {
  float sum = taps.bias;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) sum += taps.w[k] * x[k];
  return sum;
}

// The K-1 inputs before token t.
template <int kTaps, class X>
__device__ void load_history(float* x, const Input<X>& in, int64_t segment, int64_t first,
                             int64_t t, int64_t c) {
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    x[k] = input_at(in, segment, first, t - (kTaps - 1) + k, c, kTaps - 1);
}

template <class X>
struct Forward {
  Input<X> in;
  X* y;
  int64_t y_pitch;
  const Run* runs;
};

// Block (run, 256 channels).
template <class X, int kTaps>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<X> f) {
  constexpr int kPast = kTaps - 1;
  const int64_t c = channel_of_thread();
  if (c >= f.in.channels) return;
  const Run run = f.runs[blockIdx.x];
  const Taps<kTaps> taps = load_taps<kTaps>(f.in, c);
  float x[kPast + kTile];
  load_history<kTaps>(x, f.in, run.segment, run.first, run.begin, c);
  const X* from = f.in.x + run.begin * f.in.pitch + c;
  X* to = f.y + run.begin * f.y_pitch + c;
  for (int left = run.end - run.begin; left > 0; left -= kTile) {
#pragma unroll
    for (int i = 0; i < kTile; ++i) x[kPast + i] = i < left ? load(from + i * f.in.pitch) : 0.0f;
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      if (i < left) store(to + i * f.y_pitch, silu(tap_sum<kTaps>(taps, x + i)));
#pragma unroll
    for (int k = 0; k < kPast; ++k) x[k] = x[kTile + k];
    from += kTile * f.in.pitch;
    to += kTile * f.y_pitch;
  }
}

// Block (segment, 256 channels). A launch of its own: the state may be the initial one, advanced.
template <class X, int kTaps>
__global__ void final_state_kernel(Input<X> in, States<float> state, DeviceSegments segments) {
  const int64_t c = channel_of_thread();
  if (c >= in.channels) return;
  const int64_t segment = blockIdx.x;
  float x[kTaps];
  load_history<kTaps>(x, in, segment, segments.offsets[segment], segments.offsets[segment + 1], c);
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    state.data[segment * state.slot + c * state.channel + k] = x[k];
}

template <class X>
struct Backward {
  Input<X> in;
  const X* dy;
  X* dx;
  int64_t dy_pitch, dx_pitch;
  float* parts;  // [gridDim.x, C * K + C]: dw, then dbias
  const Run* runs;
  int64_t run_count;
};

template <int kTaps>
struct TapGrads {
  float w[kTaps] = {};
  float bias = 0.0f;
};

// One run of one channel. Token `at` of the run: du is needed until K-1 behind the run, is zero behind the
// segment, and completes dx of token at - (K-1).
template <class X, int kTaps>
__device__ void backward_run(const Backward<X>& b, const Run& run, const Taps<kTaps>& taps,
                             TapGrads<kTaps>& grads, int64_t c) {
  constexpr int kPast = kTaps - 1;
  const int owned = run.end - run.begin;
  const int known = min(run.last - run.begin, owned + kPast);
  float x[kPast + kTile];
  float du[kPast + kTile];
  load_history<kTaps>(x, b.in, run.segment, run.first, run.begin, c);
#pragma unroll
  for (int k = 0; k < kPast; ++k) du[k] = 0.0f;
  for (int at = 0; at < owned + kPast; at += kTile) {
    const X* from = b.in.x + (run.begin + at) * b.in.pitch + c;
    const X* dy = b.dy + (run.begin + at) * b.dy_pitch + c;
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      x[kPast + i] = at + i < known ? load(from + i * b.in.pitch) : 0.0f;
      du[kPast + i] = at + i < known ? load(dy + i * b.dy_pitch) : 0.0f;
    }
    X* dx = b.dx + (run.begin + at - kPast) * b.dx_pitch + c;
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (at + i < known) du[kPast + i] *= silu_slope(tap_sum<kTaps>(taps, x + i));
      if (at + i < owned) {
        grads.bias += du[kPast + i];
#pragma unroll
        for (int k = 0; k < kTaps; ++k) grads.w[k] += du[kPast + i] * x[i + k];
      }
      if (at + i < kPast || at + i >= owned + kPast) continue;
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) sum += taps.w[k] * du[kPast + i - k];
      store(dx + i * b.dx_pitch, sum);
    }
#pragma unroll
    for (int k = 0; k < kPast; ++k) {
      x[k] = x[kTile + k];
      du[k] = du[kTile + k];
    }
  }
}

// Block (part, 256 channels): runs part, part + parts, ...
template <class X, int kTaps>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<X> b) {
  const int64_t c = channel_of_thread();
  if (c >= b.in.channels) return;
  const Taps<kTaps> taps = load_taps<kTaps>(b.in, c);
  TapGrads<kTaps> grads;
  for (int64_t r = blockIdx.x; r < b.run_count; r += gridDim.x)
    backward_run<X, kTaps>(b, b.runs[r], taps, grads, c);
  float* part = b.parts + int64_t{blockIdx.x} * b.in.channels * (kTaps + 1);
#pragma unroll
  for (int k = 0; k < kTaps; ++k) part[c * kTaps + k] = grads.w[k];
  part[b.in.channels * kTaps + c] = grads.bias;
}

template <class X>
struct Step {
  Input<X> in;  // initial: the state
  States<float> state;
  X* y;
  int64_t y_pitch;
};

// Block (row, 256 channels).
template <class X, int kTaps>
__global__ void step_kernel(Step<X> s) {
  const int64_t c = channel_of_thread();
  if (c >= s.in.channels) return;
  const Taps<kTaps> taps = load_taps<kTaps>(s.in, c);
  const int64_t b = blockIdx.x;
  float x[kTaps];
  load_history<kTaps>(x, s.in, b, 0, 0, c);
  x[kTaps - 1] = load(s.in.x + b * s.in.pitch + c);
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    s.state.data[b * s.state.slot + c * s.state.channel + k] = x[k + 1];
  store(s.y + b * s.y_pitch + c, silu(tap_sum<kTaps>(taps, x)));
}

// Calls body(integral_constant<int, taps>).
template <int kTaps = 1, class Body>
void with_taps(int64_t taps, Body&& body) {
  if (taps == kTaps) return body(std::integral_constant<int, kTaps>());
  if constexpr (kTaps < kMostTaps)
    with_taps<kTaps + 1>(taps, body);
  else
    throw Error(str("conv1d: ", taps, " taps, the CUDA kernels hold ", kMostTaps));
}

dim3 grid_of(int64_t blocks, int64_t channels) {
  return {static_cast<unsigned>(blocks),
          static_cast<unsigned>((channels + kThreads - 1) / kThreads)};
}

template <class X>
void forward(Context& ctx, const Conv1dForward& a) {
  const Arena::Mark mark(ctx.scratch());
  const std::vector<Run> runs = make_runs(a.segments);
  const Forward<X> f{.in = input_of<X>(a.x, a.initial, a.w, a.bias),
                     .y = elements<X>(a.y),
                     .y_pitch = a.y.stride(0),
                     .runs = upload(ctx, runs)};
  with_taps(a.w.dim(1), [&]<int kTaps>(std::integral_constant<int, kTaps>) {
    const auto blocks = static_cast<int64_t>(runs.size());
    launch(ctx, {grid_of(blocks, f.in.channels), kThreads}, forward_kernel<X, kTaps>, f);
    if (!a.final_state || kTaps == 1) return;
    launch(ctx, {grid_of(a.segments.count(), f.in.channels), kThreads},
           final_state_kernel<X, kTaps>, f.in, states_of(a.final_state), upload(ctx, a.segments));
  });
}

template <class X>
void backward(Context& ctx, const Conv1dBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const std::vector<Run> runs = make_runs(a.segments);
  const auto run_count = static_cast<int64_t>(runs.size());
  const int64_t channels = a.x.dim(1);
  const int64_t taps = a.w.dim(1);
  const int64_t parts = std::min(run_count, kMaxParts);
  const int64_t stride = channels * (taps + 1);
  const Backward<X> b{.in = input_of<X>(a.x, {}, a.w, a.bias),
                      .dy = elements<X>(a.dy),
                      .dx = elements<X>(a.dx),
                      .dy_pitch = a.dy.stride(0),
                      .dx_pitch = a.dx.stride(0),
                      .parts = ctx.scratch().floats(parts * stride),
                      .runs = upload(ctx, runs),
                      .run_count = run_count};
  with_taps(taps, [&]<int kTaps>(std::integral_constant<int, kTaps>) {
    launch(ctx, {grid_of(parts, channels), kThreads}, backward_kernel<X, kTaps>, b);
  });
  add_parts(ctx, a.dw, b.parts, parts, stride);
  if (a.dbias) add_parts(ctx, a.dbias, b.parts + channels * taps, parts, stride);
}

}  // namespace

void run(Context& ctx, const Conv1dForward& a) {
  with_elements(a.x, [&]<class X>(X) { forward<X>(ctx, a); });
}

void run(Context& ctx, const Conv1dBackward& a) {
  with_elements(a.x, [&]<class X>(X) { backward<X>(ctx, a); });
}

void run(Context& ctx, const Conv1dStep& a) {
  const Step<float> s{.in = input_of<float>(a.x, a.state, a.w, a.bias),
                      .state = states_of(a.state),
                      .y = a.y.ptr<float>(),
                      .y_pitch = a.y.stride(0)};
  with_taps(a.w.dim(1), [&]<int kTaps>(std::integral_constant<int, kTaps>) {
    launch(ctx, {grid_of(a.x.dim(0), s.in.channels), kThreads}, step_kernel<float, kTaps>, s);
  });
}

}  // namespace nestling::cuda
