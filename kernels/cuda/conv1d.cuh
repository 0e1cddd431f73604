// conv1d.cuh - what the convolution's kernels share: a thread owns two neighbouring channels, or one where rows
// do not come in pairs, and walks a run of tokens of one segment, its last K-1 inputs in registers. For
// kernels/cuda/conv1d*.cu alone.
//
// Runs          read the K-1 inputs before them again. They are as long as there are blocks enough to fill the card.
// Limits        K <= 8: the taps are counted at compile time.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/conv1d.h"

namespace nestling::cuda::conv1d {

inline constexpr int kThreads = 128;
inline constexpr int64_t kMostTaps = 8;
inline constexpr int kTile = 8;           // tokens whose loads are in flight together
inline constexpr int64_t kLeastRun = 32;  // tokens

struct Run {
  int32_t segment;
  int32_t first, last;  // tokens of the segment
  int32_t begin, end;   // of the run
};

// Of segments alike runs follow from their number, and no copy to the device goes ahead of the kernel; else they are
// looked up.
struct Runs {
  int32_t count = 0;
  int32_t length = 0;      // of a run
  int32_t segment = 0;     // tokens of a segment
  int32_t of_segment = 0;  // runs of a segment
  const Run* table = nullptr;

  __device__ Run operator[](int32_t r) const {
    if (table != nullptr) return table[r];
    const int32_t s = r / of_segment;
    const int32_t first = s * segment;
    const int32_t begin = first + (r - s * of_segment) * length;
    return {s, first, first + segment, begin, min(begin + length, first + segment)};
  }
};

inline Runs make_runs(Context& ctx, const Segments& segments, int64_t length) {
  const int64_t segment = segments.length(0);
  Runs runs{.count = 0,
            .length = static_cast<int32_t>(length),
            .segment = static_cast<int32_t>(segment),
            .of_segment = static_cast<int32_t>((segment + length - 1) / length)};
  bool alike = ctx.device() != Device::kNull;  // a rehearsal takes the memory of other segments too
  for (int64_t s = 0; s < segments.count(); ++s) alike = alike && segments.length(s) == segment;
  if (alike) {
    runs.count = static_cast<int32_t>(segments.count()) * runs.of_segment;
    return runs;
  }
  std::vector<Run> table;
  for (int64_t s = 0; s < segments.count(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); t += length)
      table.push_back({static_cast<int32_t>(s), static_cast<int32_t>(segments.begin(s)),
                       static_cast<int32_t>(segments.end(s)), static_cast<int32_t>(t),
                       static_cast<int32_t>(std::min(t + length, segments.end(s)))});
  runs.count = static_cast<int32_t>(table.size());
  runs.table = upload(ctx, table);
  return runs;
}

// [slots, C, K-1]; data null: zeros.
template <class T>
struct States {
  T* data = nullptr;
  int64_t slot = 0, channel = 0;
};
inline States<float> states_of(View v) {
  if (!v) return {};
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}
inline States<const float> states_of(ConstView v) {
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

template <int kN = 1>
__device__ int64_t channel_of_thread() {
  return (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kN;
}

// The inputs of token t, which may lie before the segment's first.
template <int kN, class X>
__device__ Pack<kN> input_at(const Input<X>& in, int64_t segment, int64_t first, int64_t t,
                             int64_t c, int history) {
  Pack<kN> x = load_whole<kN>(in.x + t * in.pitch + c, t >= first);
  if (t >= first || in.initial.data == nullptr) return x;
  const float* state = in.initial.data + segment * in.initial.slot + history + t - first;
#pragma unroll
  for (int n = 0; n < kN; ++n) x.v[n] = state[(c + n) * in.initial.channel];
  return x;
}

template <int kN, int kTaps>
struct Taps {
  Pack<kN> w[kTaps];
  Pack<kN> bias;
};
template <int kN, int kTaps, class X>
__device__ Taps<kN, kTaps> load_taps(const Input<X>& in, int64_t c) {
  Taps<kN, kTaps> taps;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) taps.w[k].v[n] = in.w[(c + n) * in.w_pitch + k];
    taps.bias.v[n] = in.bias != nullptr ? in.bias[c + n] : 0.0f;
  }
  return taps;
}

// x [K]: the input under each tap. Forward, backward and step add in this one order.
template <int kN, int kTaps>
__device__ Pack<kN> tap_sum(const Taps<kN, kTaps>& taps, const Pack<kN>* x) {
  Pack<kN> sum = taps.bias;
#pragma unroll
  for (int k = 0; k < kTaps; ++k)
#pragma unroll
    for (int n = 0; n < kN; ++n) sum.v[n] += taps.w[k].v[n] * x[k].v[n];
  return sum;
}

// The K-1 inputs before token t.
template <int kTaps, int kN, class X>
__device__ void load_history(Pack<kN>* x, const Input<X>& in, int64_t segment, int64_t first,
                             int64_t t, int64_t c) {
#pragma unroll
  for (int k = 0; k + 1 < kTaps; ++k)
    x[k] = input_at<kN>(in, segment, first, t - (kTaps - 1) + k, c, kTaps - 1);
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

// Calls body(integral_constant<int, taps>, integral_constant<int, channels of a thread>).
template <class Body>
void with_shape(int64_t taps, bool pairs, Body&& body) {
  with_taps(taps, [&](auto known) {
    pairs ? body(known, std::integral_constant<int, 2>())
          : body(known, std::integral_constant<int, 1>());
  });
}

inline unsigned blocks_of(int64_t channels, int64_t of_thread) {
  const int64_t of_block = kThreads * of_thread;
  return static_cast<unsigned>((channels + of_block - 1) / of_block);
}
inline dim3 grid_of(int64_t blocks, int64_t channels, int64_t of_thread = 1) {
  return {static_cast<unsigned>(blocks), blocks_of(channels, of_thread)};
}

// Runs that end `short_of` before a whole number of tiles: `longest` or a half, a quarter, ... of it, the longest that
// make `enough` blocks. A rehearsal takes the memory of the shortest: fewer tokens may make more runs.
inline Runs runs_of(Context& ctx, const Segments& segments, int64_t channels, bool pairs,
                    int64_t enough, int64_t longest, int64_t short_of) {
  const int64_t columns = blocks_of(channels, pairs ? 2 : 1);
  int64_t length = ctx.device() == Device::kNull ? kLeastRun : longest;
  while (length > kLeastRun && segments.tokens() / length * columns < enough) length /= 2;
  return make_runs(ctx, segments, length - short_of);
}

}  // namespace nestling::cuda::conv1d
