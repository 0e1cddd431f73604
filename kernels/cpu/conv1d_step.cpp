// The convolution, one token of each sequence.
#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/conv1d_rows.h"
#include "kernels/ops/conv1d.h"

namespace nestling::cpu {

namespace {

using namespace conv1d;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Step {
  float* y;
  float* state;
  const float* x;
  const float* w;
  const float* bias;
  int64_t y_pitch, x_pitch, w_pitch, state_batch, state_channel, channels, taps;
};

// One sequence. The sums run channel by channel, as state and weights lie; the activation in
// vectors.
template <class V>
NESTLING_INLINE void step_channels(const Step& s, int64_t b, int64_t begin, int64_t end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const float* x = s.x + b * s.x_pitch;
  float* y = s.y + b * s.y_pitch;
  for (int64_t c = begin; c < end; ++c) {
    float* state = s.state + b * s.state_batch + c * s.state_channel;
    const float* w = s.w + c * s.w_pitch;
    const float newest = x[c];  // y may be x
    float sum = s.bias != nullptr ? s.bias[c] : 0.0f;
    for (int64_t k = 0; k + 1 < s.taps; ++k) sum += w[k] * state[k];
    sum += w[s.taps - 1] * newest;
    for (int64_t k = 0; k + 2 < s.taps; ++k) state[k] = state[k + 1];
    if (s.taps > 1) state[s.taps - 2] = newest;
    y[c] = sum;
  }
  for (int64_t c = begin; c < end; c += kN) {
    const V sum = read<V>(y + c, end - c);
    write<V>(y + c, sum * simd::sigmoid(sum), end - c);
  }
}
void step_avx2(const Step& s, int64_t b, int64_t begin, int64_t end) {
  step_channels<simd::F8>(s, b, begin, end);
}
NESTLING_TARGET_AVX512 void step_avx512(const Step& s, int64_t b, int64_t begin, int64_t end) {
  step_channels<simd::F16>(s, b, begin, end);
}

}  // namespace

void run(Context&, const Conv1dStep& a) {
  const Step s{.y = a.y.ptr<float>(),
               .state = a.state.ptr<float>(),
               .x = a.x.ptr<float>(),
               .w = a.w.ptr<float>(),
               .bias = a.bias ? a.bias.ptr<float>() : nullptr,
               .y_pitch = a.y.stride(0),
               .x_pitch = a.x.stride(0),
               .w_pitch = a.w.stride(0),
               .state_batch = a.state.stride(0),
               .state_channel = a.state.stride(1),
               .channels = a.x.dim(1),
               .taps = a.w.dim(1)};
  constexpr int64_t kChannelsPerTask = 256;
  const int64_t blocks = (s.channels + kChannelsPerTask - 1) / kChannelsPerTask;
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? step_avx512 : step_avx2;
  parallel_for(a.x.dim(0) * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % blocks * kChannelsPerTask;
      body(s, i / blocks, c, std::min(c + kChannelsPerTask, s.channels));
    }
  });
}

}  // namespace nestling::cpu
