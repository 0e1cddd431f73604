// conv1d_rows.h - what the convolution's forward, backward and step share: taps along channels, rows
// of the input across the start of a segment, and runs of tokens. Internal to kernels/cpu/conv1d*.cpp.
#pragma once
#include <algorithm>

#include "kernels/core/arena.h"
#include "kernels/core/simd.h"
#include "kernels/core/view.h"
#include "kernels/ops/segments.h"

namespace nestling::cpu::conv1d {

inline constexpr int64_t kTokensPerTask = 16;
// Tokens computed together for one vector of channels: weights, sums and the rows that neighbours
// share stay in registers, so that a row is read little more than once.
inline constexpr int kTile = 8;
// Channels walked through time together.
inline constexpr int64_t kBlock = 4096;
// Floats that tiles fetch ahead along their rows, which are too many for the hardware to
// follow.
inline constexpr int64_t kAhead = 128;

// The weights as [K, C] and the bias, padded with zeros to a whole number of vectors, so that taps
// are read along channels.
struct Taps {
  const float* w;  // [K, pitch]
  const float* bias;
  int64_t count, pitch;
};

inline int64_t padded(int64_t n) {
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

inline Taps make_taps(Arena& scratch, ConstView w, ConstView bias) {
  const int64_t channels = w.dim(0);
  const int64_t count = w.dim(1);
  const int64_t pitch = padded(channels);
  float* taps = scratch.floats((count + 1) * pitch);
  std::fill_n(taps, (count + 1) * pitch, 0.0f);
  const float* from = w.ptr<float>();
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < count; ++k) taps[k * pitch + c] = from[c * w.stride(0) + k];
  if (bias) std::copy_n(bias.ptr<float>(), channels, taps + count * pitch);
  return {taps, taps + count * pitch, count, pitch};
}

// Where row t - back of a segment's input lies: in x, or before the segment.
struct Input {
  const float* x;
  int64_t x_pitch;
  const float* before;  // [segments, K-1, pitch], or one row of zeros
  int64_t segment_step, row_step;
  int64_t history;

  const float* row(int64_t segment, int64_t segment_begin, int64_t t) const {
    if (t >= segment_begin) return x + t * x_pitch;
    return before + segment * segment_step + (history + t - segment_begin) * row_step;
  }
};

inline Input make_input(Arena& scratch, ConstView x, ConstView initial, int64_t history) {
  const int64_t pitch = padded(x.dim(1));
  Input in{x.ptr<float>(), x.stride(0), nullptr, 0, 0, history};
  if (!initial || history == 0) {
    float* zeros = scratch.floats(pitch);
    std::fill_n(zeros, pitch, 0.0f);
    in.before = zeros;
    return in;
  }
  in.segment_step = history * pitch;
  in.row_step = pitch;
  float* rows = scratch.floats(initial.dim(0) * history * pitch);
  std::fill_n(rows, initial.dim(0) * history * pitch, 0.0f);
  const float* from = initial.ptr<float>();
  for (int64_t s = 0; s < initial.dim(0); ++s)
    for (int64_t c = 0; c < x.dim(1); ++c)
      for (int64_t j = 0; j < history; ++j)
        rows[(s * history + j) * pitch + c] =
            from[s * initial.stride(0) + c * initial.stride(1) + j];
  in.before = rows;
  return in;
}

// A run of tokens of one segment.
struct Run {
  int64_t segment, segment_begin, segment_end, begin, end;
};

// Calls body(run) for each segment's part of tokens [begin, end).
template <class Body>
void for_each_run(const Segments& segments, int64_t begin, int64_t end, Body&& body) {
  const auto offsets = segments.offsets();
  const auto above = std::upper_bound(offsets.begin(), offsets.end(), begin);
  for (int64_t s = above - offsets.begin() - 1; s < segments.count() && segments.begin(s) < end;
       ++s)
    body(Run{s, segments.begin(s), segments.end(s), std::max(begin, segments.begin(s)),
             std::min(end, segments.end(s))});
}

template <class V>
NESTLING_INLINE V read(const float* p, int64_t n) {
  return n >= simd::kLanesOf<V> ? simd::load<V>(p) : simd::load_n<V>(p, n);
}
template <class V>
NESTLING_INLINE void write(float* p, V v, int64_t n) {
  if (n >= simd::kLanesOf<V>)
    simd::store(p, v);
  else
    simd::store_n(p, v, n);
}

// rows[k] is the input under tap k; n channels from c on.
template <class V>
NESTLING_INLINE V tap_sum(const Taps& taps, const float* const* rows, int64_t c, int64_t n) {
  V sum = simd::load<V>(taps.bias + c);
  for (int64_t k = 0; k < taps.count; ++k)
    sum += simd::load<V>(taps.w + k * taps.pitch + c) * read<V>(rows[k] + c, n);
  return sum;
}

// The weights of one vector of channels in registers.
template <class V, int kTaps>
struct Weights {
  V w[kTaps];
  V bias;

  NESTLING_INLINE Weights(const Taps& taps, int64_t c) : bias(simd::load<V>(taps.bias + c)) {
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) w[k] = simd::load<V>(taps.w + k * taps.pitch + c);
  }
  // x [kTaps]: the input under each tap.
  NESTLING_INLINE V sum(const V* x) const {
    V s = bias;
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) s += w[k] * x[k];
    return s;
  }
};

inline const float** row_pointers(Arena& scratch, int64_t n) {
  return reinterpret_cast<const float**>(scratch.alloc(DType::kI64, {n}).data());
}

}  // namespace nestling::cpu::conv1d
