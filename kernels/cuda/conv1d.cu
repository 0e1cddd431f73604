// conv1d.cu - the convolution's forward and its one-token step; see conv1d.cuh.
#include "kernels/cuda/conv1d.cuh"

namespace nestling::cuda {

namespace {

using namespace conv1d;  // NOLINT(google-build-using-namespace): this operator's own helpers

constexpr int64_t kLongestRun = 64;
constexpr int64_t kEnough = 1056;  // blocks: eight a multiprocessor of an H100

template <class X>
struct Forward {
  Input<X> in;
  X* y;
  int64_t y_pitch;
  Runs runs;
};

// The next kTile tokens, of which `left` are of the run. kWhole: all.
template <bool kWhole, int kTaps, int kN, class X>
__device__ void forward_tile(const Forward<X>& f, const Taps<kN, kTaps>& taps,
                             Pack<kN> (&x)[kTaps - 1 + kTile], const X* from, X* to, int left) {
  constexpr int kPast = kTaps - 1;
#pragma unroll
  for (int i = 0; i < kTile; ++i)
    x[kPast + i] = load_whole<kN>(from + i * f.in.pitch, kWhole || i < left);
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    Pack<kN> y = tap_sum<kN, kTaps>(taps, x + i);
#pragma unroll
    for (int n = 0; n < kN; ++n) y.v[n] = silu(y.v[n]);
    if (kWhole || i < left) store_pack(to + i * f.y_pitch, y);
  }
#pragma unroll
  for (int k = 0; k < kPast; ++k) x[k] = x[kTile + k];
}

// Block (run, kThreads threads' channels).
template <class X, int kTaps, int kN>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<X> f) {
  const int64_t c = channel_of_thread<kN>();
  if (c >= f.in.channels) return;
  const Run run = f.runs[blockIdx.x];
  const Taps<kN, kTaps> taps = load_taps<kN, kTaps>(f.in, c);
  Pack<kN> x[kTaps - 1 + kTile];
  load_history<kTaps, kN>(x, f.in, run.segment, run.first, run.begin, c);
  const X* from = f.in.x + run.begin * f.in.pitch + c;
  X* to = f.y + run.begin * f.y_pitch + c;
  for (int left = run.end - run.begin; left > 0; left -= kTile) {
    if (left >= kTile)
      forward_tile<true, kTaps, kN>(f, taps, x, from, to, left);
    else
      forward_tile<false, kTaps, kN>(f, taps, x, from, to, left);
    from += kTile * f.in.pitch;
    to += kTile * f.y_pitch;
  }
}

// Block (segment, kThreads channels). A launch of its own: the state may be the initial one, advanced.
template <class X, int kTaps>
__global__ void final_state_kernel(Input<X> in, States<float> state, DeviceSegments segments) {
  const int64_t c = channel_of_thread();
  if (c >= in.channels) return;
  const int64_t segment = blockIdx.x;
  Pack<1> x[kTaps];
  load_history<kTaps, 1>(x, in, segment, segments.offsets[segment], segments.offsets[segment + 1],
                         c);
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    state.data[segment * state.slot + c * state.channel + k] = x[k].v[0];
}

template <class X>
struct Step {
  Input<X> in;  // initial: the state
  States<float> state;
  X* y;
  int64_t y_pitch;
};

// Block (row, kThreads channels).
template <class X, int kTaps>
__global__ void step_kernel(Step<X> s) {
  const int64_t c = channel_of_thread();
  if (c >= s.in.channels) return;
  const Taps<1, kTaps> taps = load_taps<1, kTaps>(s.in, c);
  const int64_t b = blockIdx.x;
  Pack<1> x[kTaps];
  load_history<kTaps, 1>(x, s.in, b, 0, 0, c);
  x[kTaps - 1].v[0] = load(s.in.x + b * s.in.pitch + c);
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    s.state.data[b * s.state.slot + c * s.state.channel + k] = x[k + 1].v[0];
  store(s.y + b * s.y_pitch + c, silu(tap_sum<1, kTaps>(taps, x).v[0]));
}

template <class X>
void forward(Context& ctx, const Conv1dForward& a) {
  const Arena::Mark mark(ctx.scratch());
  X* y = elements<X>(a.y);
  const Input<X> in = input_of<X>(a.x, a.initial, a.w, a.bias);
  const bool pairs =
      in.channels % 2 == 0 && packable<2>(in.x, in.pitch) && packable<2>(y, a.y.stride(0));
  const Forward<X> f{.in = in,
                     .y = y,
                     .y_pitch = a.y.stride(0),
                     .runs = runs_of(ctx, a.segments, in.channels, pairs, kEnough, kLongestRun, 0)};
  with_shape(
      a.w.dim(1), pairs,
      [&]<int kTaps, int kN>(std::integral_constant<int, kTaps>, std::integral_constant<int, kN>) {
        launch(ctx, {grid_of(f.runs.count, in.channels, kN), kThreads},
               forward_kernel<X, kTaps, kN>, f);
        if (!a.final_state || kTaps == 1) return;
        launch(ctx, {grid_of(a.segments.count(), in.channels), kThreads},
               final_state_kernel<X, kTaps>, in, states_of(a.final_state), upload(ctx, a.segments));
      });
}

}  // namespace

void run(Context& ctx, const Conv1dForward& a) {
  with_elements(a.x, [&]<class X>(X) { forward<X>(ctx, a); });
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
