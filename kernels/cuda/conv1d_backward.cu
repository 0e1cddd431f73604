// conv1d_backward.cu - the convolution's backward; see conv1d.cuh. du = dy silu'(sum) is computed once a token and,
// for the K-1 tokens behind a run, once more by the run before: dx follows K-1 tokens behind du. A block takes
// several runs and keeps their sums of dw and dbias in registers: one part a block.
#include "kernels/cuda/conv1d.cuh"
#include "kernels/cuda/parts.h"

namespace nestling::cuda {

namespace {

using namespace conv1d;  // NOLINT(google-build-using-namespace): this operator's own helpers

constexpr int64_t kMaxParts = 256;    // of the sums of dw and dbias
constexpr int64_t kLongestRun = 256;  // of 64 tokens, sums would be a tenth of all there is to move
constexpr int64_t kEnough = 512;      // blocks: four a multiprocessor of an H100

template <class X>
struct Backward {
  Input<X> in;
  const X* dy;
  X* dx;
  int64_t dy_pitch, dx_pitch;
  float* parts;  // [gridDim.x, stride]: dw [C, K], then dbias [C]
  int64_t stride;
  Runs runs;
};

template <int kN, int kTaps>
struct TapGrads {
  Pack<kN> w[kTaps] = {};
  Pack<kN> bias = {};
};

// What the last tokens of a tile leave to the next.
template <int kN, int kTaps>
struct Window {
  Pack<kN> x[kTaps - 1 + kTile];
  Pack<kN> du[kTaps - 1 + kTile];
};

// The kTile tokens from token `at` of a run on: du of those below `known`, dw of those below `owned`, dx of those
// K-1 before. kWhole: all there are.
template <bool kWhole, int kTaps, int kN, class X>
__device__ void backward_tile(const Backward<X>& b, const Taps<kN, kTaps>& taps,
                              TapGrads<kN, kTaps>& grads, Window<kN, kTaps>& win, int64_t token,
                              int64_t c, int at, int known, int owned) {
  constexpr int kPast = kTaps - 1;
  const X* from = b.in.x + token * b.in.pitch + c;
  const X* dy = b.dy + token * b.dy_pitch + c;
  X* dx = b.dx + (token - kPast) * b.dx_pitch + c;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    win.x[kPast + i] = load_whole<kN>(from + i * b.in.pitch, kWhole || at + i < known);
    win.du[kPast + i] = load_whole<kN>(dy + i * b.dy_pitch, kWhole || at + i < known);
  }
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    const Pack<kN> sum = tap_sum<kN, kTaps>(taps, win.x + i);
    Pack<kN>& du = win.du[kPast + i];
    const bool own = kWhole || at + i < owned;
    Pack<kN> to{};
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      du.v[n] = kWhole || at + i < known ? du.v[n] * silu_slope(sum.v[n]) : 0.0f;
      const float mine = own ? du.v[n] : 0.0f;
      grads.bias.v[n] += mine;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        grads.w[k].v[n] += mine * win.x[i + k].v[n];
        to.v[n] += taps.w[k].v[n] * win.du[kPast + i - k].v[n];
      }
    }
    if (kWhole || (at + i >= kPast && at + i < owned + kPast)) store_pack(dx + i * b.dx_pitch, to);
  }
#pragma unroll
  for (int k = 0; k < kPast; ++k) {
    win.x[k] = win.x[kTile + k];
    win.du[k] = win.du[kTile + k];
  }
}

// One run. du is needed until K-1 tokens behind it, is zero behind the segment, and completes dx of the token
// K-1 before.
template <class X, int kTaps, int kN>
__device__ void backward_run(const Backward<X>& b, const Run& run, const Taps<kN, kTaps>& taps,
                             TapGrads<kN, kTaps>& grads, int64_t c) {
  constexpr int kPast = kTaps - 1;
  const int owned = run.end - run.begin;
  const int known = min(run.last - run.begin, owned + kPast);
  Window<kN, kTaps> win;
  load_history<kTaps, kN>(win.x, b.in, run.segment, run.first, run.begin, c);
#pragma unroll
  for (int k = 0; k < kPast; ++k) win.du[k] = {};
  for (int at = 0; at < owned + kPast; at += kTile) {
    const int64_t token = run.begin + at;
    if (at >= kPast && at + kTile <= owned)
      backward_tile<true, kTaps, kN>(b, taps, grads, win, token, c, at, known, owned);
    else
      backward_tile<false, kTaps, kN>(b, taps, grads, win, token, c, at, known, owned);
  }
}

// Block (part, kThreads threads' channels): runs part, part + parts, ...
template <class X, int kTaps, int kN>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<X> b) {
  const int64_t c = channel_of_thread<kN>();
  if (c >= b.in.channels) return;
  const Taps<kN, kTaps> taps = load_taps<kN, kTaps>(b.in, c);
  TapGrads<kN, kTaps> grads;
  for (int32_t r = blockIdx.x; r < b.runs.count; r += gridDim.x)
    backward_run<X, kTaps, kN>(b, b.runs[r], taps, grads, c);
  float* part = b.parts + blockIdx.x * b.stride;
  constexpr int kRun = kTaps % kQuad == 0 ? kQuad : 1;  // taps that are stored at once
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int k = 0; k < kTaps; k += kRun) {
      Pack<kRun> sums;
#pragma unroll
      for (int i = 0; i < kRun; ++i) sums.v[i] = grads.w[k + i].v[n];
      store_pack(part + (c + n) * kTaps + k, sums);
    }
  store_pack(part + b.in.channels * kTaps + c, grads.bias);
}

template <class X>
void backward(Context& ctx, const Conv1dBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t channels = a.x.dim(1);
  const int64_t taps = a.w.dim(1);
  Backward<X> b{.in = input_of<X>(a.x, {}, a.w, a.bias),
                .dy = elements<X>(a.dy),
                .dx = elements<X>(a.dx),
                .dy_pitch = a.dy.stride(0),
                .dx_pitch = a.dx.stride(0),
                .parts = nullptr,
                .stride = (channels * (taps + 1) + kQuad - 1) / kQuad * kQuad,
                .runs = {}};
  const bool pairs = channels % 2 == 0 && packable<2>(b.in.x, b.in.pitch) &&
                     packable<2>(b.dy, b.dy_pitch) && packable<2>(b.dx, b.dx_pitch);
  b.runs = runs_of(ctx, a.segments, channels, pairs, kEnough, kLongestRun, taps - 1);
  const int64_t parts = std::min<int64_t>(b.runs.count, kMaxParts);
  b.parts = ctx.scratch().floats(parts * b.stride);
  with_shape(
      taps, pairs,
      [&]<int kTaps, int kN>(std::integral_constant<int, kTaps>, std::integral_constant<int, kN>) {
        launch(ctx, {grid_of(parts, channels, kN), kThreads}, backward_kernel<X, kTaps, kN>, b);
      });
  add_parts(ctx, a.dw, b.parts, parts, b.stride, a.dbias);
}

}  // namespace

void run(Context& ctx, const Conv1dBackward& a) {
  with_elements(a.x, [&]<class X>(X) { backward<X>(ctx, a); });
}

}  // namespace nestling::cuda
