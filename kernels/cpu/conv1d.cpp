#include "kernels/ops/conv1d.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kTokensPerTask = 16;
// Channels walked through time together: their last K rows stay in the first cache.
constexpr int64_t kBlock = 4096;

// The weights as [K, C] and the bias, padded with zeros to a whole number of vectors, so that taps
// are read along channels.
struct Taps {
  const float* w;  // [K, pitch]
  const float* bias;
  int64_t count, pitch;
};

int64_t padded(int64_t n) {
  return (n + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
}

Taps make_taps(Arena& scratch, ConstView w, ConstView bias) {
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

Input make_input(Arena& scratch, ConstView x, ConstView initial, int64_t history) {
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

// rows[k] is the input under tap k; n channels from c on. kTaps is the number of taps where the
// compiler may know it, else 0.
template <class V, int kTaps>
NESTLING_INLINE V tap_sum(const Taps& taps, const float* const* rows, int64_t c, int64_t n) {
  const int64_t count = kTaps > 0 ? kTaps : taps.count;
  V sum = simd::load<V>(taps.bias + c);
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k)
    sum += simd::load<V>(taps.w + k * taps.pitch + c) * read<V>(rows[k] + c, n);
  return sum;
}

struct Forward {
  float* y;
  int64_t y_pitch, channels;
  Input in;
  Taps taps;
};

// rows [K] is scratch.
template <class V, int kTaps>
NESTLING_INLINE void forward_run(const Forward& f, const Run& run, const float** rows) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t first = 0; first < f.channels; first += kBlock) {
    const int64_t last = std::min(first + kBlock, f.channels);
    for (int64_t t = run.begin; t < run.end; ++t) {
      for (int64_t k = 0; k < f.taps.count; ++k)
        rows[k] = f.in.row(run.segment, run.segment_begin, t - (f.taps.count - 1 - k));
      float* y = f.y + t * f.y_pitch;
      int64_t c = first;
      for (; c + kN <= last; c += kN) {
        const V sum = tap_sum<V, kTaps>(f.taps, rows, c, kN);
        simd::store(y + c, sum * simd::sigmoid(sum));
      }
      if (c == last) continue;
      const V sum = tap_sum<V, kTaps>(f.taps, rows, c, last - c);
      simd::store_n(y + c, sum * simd::sigmoid(sum), last - c);
    }
  }
}
template <class V>
NESTLING_INLINE void forward_any(const Forward& f, const Run& run, const float** rows) {
  if (f.taps.count == 4) return forward_run<V, 4>(f, run, rows);
  forward_run<V, 0>(f, run, rows);
}
void forward_avx2(const Forward& f, const Run& run, const float** rows) {
  forward_any<simd::F8>(f, run, rows);
}
NESTLING_TARGET_AVX512 void forward_avx512(const Forward& f, const Run& run, const float** rows) {
  forward_any<simd::F16>(f, run, rows);
}

struct Backward {
  float* dx;
  const float* dy;
  int64_t dx_pitch, dy_pitch, channels;
  Input in;
  Taps taps;
};

// A thread's own memory: du of the last K tokens of one block, and its sums.
struct Own {
  float* du;     // [K, kBlock]
  float* dw;     // [K, pitch]
  float* dbias;  // [pitch]
  const float** rows;
};

// Up to a vector of du_t = dy_t silu'(sum_t) from channel c on; dw and dbias take it where the
// token is the thread's own, not one behind its run that dx needs.
template <class V, int kTaps>
NESTLING_INLINE V backward_vector(const Backward& b, const Own& own, const float* dy, int64_t c,
                                  int64_t n, bool owned) {
  const int64_t taps = kTaps > 0 ? kTaps : b.taps.count;
  const V sum = tap_sum<V, kTaps>(b.taps, own.rows, c, n);
  const V gate = simd::sigmoid(sum);
  const V du = read<V>(dy + c, n) * (gate + sum * gate * (1.0f - gate));
  if (!owned) return du;
  simd::store(own.dbias + c, simd::load<V>(own.dbias + c) + du);
#pragma GCC unroll 4
  for (int64_t k = 0; k < taps; ++k) {
    float* dw = own.dw + k * b.taps.pitch + c;
    simd::store(dw, simd::load<V>(dw) + du * read<V>(own.rows[k] + c, n));
  }
  return du;
}

template <class V, int kTaps>
NESTLING_INLINE void backward_token(const Backward& b, const Own& own, int64_t t, int64_t first,
                                    int64_t last, bool owned) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const float* dy = b.dy + t * b.dy_pitch;
  float* du = own.du + t % b.taps.count * kBlock;
  int64_t c = first;
  for (; c + kN <= last; c += kN)
    simd::store(du + (c - first), backward_vector<V, kTaps>(b, own, dy, c, kN, owned));
  if (c < last)
    simd::store(du + (c - first), backward_vector<V, kTaps>(b, own, dy, c, last - c, owned));
}

// dx_t = sum over k of w_k du_{t+K-1-k}; own.rows[k] is that row of the ring.
template <class V, int kTaps>
NESTLING_INLINE void emit_dx(const Backward& b, const Own& own, int64_t t, int64_t first,
                             int64_t last) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const int64_t taps = kTaps > 0 ? kTaps : b.taps.count;
  for (int64_t k = 0; k < taps; ++k) own.rows[k] = own.du + (t + taps - 1 - k) % taps * kBlock;
  float* dx = b.dx + t * b.dx_pitch;
  for (int64_t c = first; c < last; c += kN) {
    V sum = {};
#pragma GCC unroll 4
    for (int64_t k = 0; k < taps; ++k)
      sum +=
          simd::load<V>(b.taps.w + k * b.taps.pitch + c) * simd::load<V>(own.rows[k] + (c - first));
    write<V>(dx + c, sum, last - c);
  }
}

template <class V, int kTaps>
NESTLING_INLINE void backward_run(const Backward& b, const Run& run, const Own& own) {
  const int64_t taps = b.taps.count;
  for (int64_t first = 0; first < b.channels; first += kBlock) {
    const int64_t last = std::min(first + kBlock, b.channels);
    for (int64_t t = run.begin; t < run.end + taps - 1; ++t) {
      if (t < run.segment_end) {
        for (int64_t k = 0; k < taps; ++k)
          own.rows[k] = b.in.row(run.segment, run.segment_begin, t - (taps - 1 - k));
        backward_token<V, kTaps>(b, own, t, first, last, t < run.end);
      } else {
        std::fill_n(own.du + t % taps * kBlock, kBlock, 0.0f);
      }
      if (t - (taps - 1) >= run.begin) emit_dx<V, kTaps>(b, own, t - (taps - 1), first, last);
    }
  }
}
template <class V>
NESTLING_INLINE void backward_any(const Backward& b, const Run& run, const Own& own) {
  if (b.taps.count == 4) return backward_run<V, 4>(b, run, own);
  backward_run<V, 0>(b, run, own);
}
void backward_avx2(const Backward& b, const Run& run, const Own& own) {
  backward_any<simd::F8>(b, run, own);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, const Run& run, const Own& own) {
  backward_any<simd::F16>(b, run, own);
}

const float** row_pointers(Arena& scratch, int64_t n) {
  return reinterpret_cast<const float**>(scratch.alloc(DType::kI64, {n}).data());
}

// state [C, K-1] = the last K-1 inputs before token t of a segment.
void save_state(View state, const Input& in, const Segments& segments, int64_t s) {
  for (int64_t j = 0; j < in.history; ++j) {
    const float* row = in.row(s, segments.begin(s), segments.end(s) - in.history + j);
    float* to = state.ptr<float>() + s * state.stride(0) + j;
    for (int64_t c = 0; c < state.dim(1); ++c) to[c * state.stride(1)] = row[c];
  }
}

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

void run(Context& ctx, const Conv1dForward& a) {
  Arena& scratch = ctx.scratch();
  const Arena::Mark mark(scratch);
  const int64_t taps = a.w.dim(1);
  const Forward f{.y = a.y.ptr<float>(),
                  .y_pitch = a.y.stride(0),
                  .channels = a.x.dim(1),
                  .in = make_input(scratch, a.x, a.initial, taps - 1),
                  .taps = make_taps(scratch, a.w, a.bias)};
  const float** rows = row_pointers(scratch, thread_count() * taps);
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(a.x.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for_each_run(a.segments, begin, end,
                 [&](const Run& run) { body(f, run, rows + thread_index() * taps); });
  });
  if (!a.final_state) return;
  for (int64_t s = 0; s < a.segments.count(); ++s) save_state(a.final_state, f.in, a.segments, s);
}

void run(Context& ctx, const Conv1dBackward& a) {
  Arena& scratch = ctx.scratch();
  const Arena::Mark mark(scratch);
  const int64_t taps = a.w.dim(1);
  const int64_t channels = a.x.dim(1);
  const Backward b{.dx = a.dx.ptr<float>(),
                   .dy = a.dy.ptr<float>(),
                   .dx_pitch = a.dx.stride(0),
                   .dy_pitch = a.dy.stride(0),
                   .channels = channels,
                   .in = make_input(scratch, a.x, {}, taps - 1),
                   .taps = make_taps(scratch, a.w, a.bias)};
  // Each thread sums its own tokens; the parts are added in thread order.
  const int threads = thread_count();
  const int64_t stride = taps * kBlock + (taps + 1) * b.taps.pitch;
  float* parts = scratch.floats(threads * stride);
  std::fill_n(parts, threads * stride, 0.0f);
  const float** rows = row_pointers(scratch, threads * taps);
  const auto own = [&](int i) {
    float* at = parts + i * stride;
    float* dw = at + taps * kBlock;
    return Own{at, dw, dw + taps * b.taps.pitch, rows + i * taps};
  };
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;
  parallel_for(a.x.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for_each_run(a.segments, begin, end,
                 [&](const Run& run) { body(b, run, own(thread_index())); });
  });
  auto* dw = a.dw.ptr<float>();
  for (int i = 0; i < threads; ++i)
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = 0; k < taps; ++k)
        dw[c * a.dw.stride(0) + k] += own(i).dw[k * b.taps.pitch + c];
      if (a.dbias) a.dbias.ptr<float>()[c] += own(i).dbias[c];
    }
}

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
