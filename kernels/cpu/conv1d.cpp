#include "kernels/ops/conv1d.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/conv1d_rows.h"

namespace nestling::cpu {

namespace {

using namespace conv1d;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Forward {
  float* y;
  int64_t y_pitch, channels;
  Input in;
  Taps taps;
};

// kTokens tokens from the one at y on; rows [kTaps - 1 + kTokens] are the inputs they read.
template <class V, int kTaps, int kTokens>
NESTLING_INLINE void forward_vector(const Forward& f, const float* const* rows, float* y, int64_t c,
                                    int64_t n) {
  if constexpr (kTaps == 0) {
    const V sum = tap_sum<V>(f.taps, rows, c, n);
    write<V>(y + c, sum * simd::sigmoid(sum), n);
  } else {
    const Weights<V, kTaps> weights(f.taps, c);
    V x[kTaps - 1 + kTokens];
#pragma GCC unroll 4
    for (int k = 0; k + 1 < kTaps; ++k) x[k] = read<V>(rows[k] + c, n);
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      if constexpr (kTokens > 1) __builtin_prefetch(rows[kTaps - 1 + i] + c + kAhead);
      x[kTaps - 1 + i] = read<V>(rows[kTaps - 1 + i] + c, n);
      const V sum = weights.sum(x + i);
      write<V>(y + i * f.y_pitch + c, sum * simd::sigmoid(sum), n);
    }
  }
}

template <class V, int kTaps, int kTokens>
NESTLING_INLINE void forward_tokens(const Forward& f, const float* const* rows, int64_t t,
                                    int64_t first, int64_t last) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  float* y = f.y + t * f.y_pitch;
  int64_t c = first;
  for (; c + kN <= last; c += kN) forward_vector<V, kTaps, kTokens>(f, rows, y, c, kN);
  if (c == last) return;
  for (int i = 0; i < kTokens; ++i)
    forward_vector<V, kTaps, 1>(f, rows + i, y + i * f.y_pitch, c, last - c);
}

// kTaps is the number of taps where the compiler may know it, else 0. rows [K - 1 + kTile] is
// scratch.
template <class V, int kTaps>
NESTLING_INLINE void forward_run(const Forward& f, const Run& run, const float** rows) {
  const int64_t before = f.taps.count - 1;
  for (int64_t first = 0; first < f.channels; first += kBlock) {
    const int64_t last = std::min(first + kBlock, f.channels);
    for (int64_t t = run.begin; t < run.end;) {
      const bool tile = kTaps > 0 && t + kTile <= run.end;
      const int64_t tokens = tile ? kTile : 1;
      for (int64_t i = 0; i < before + tokens; ++i)
        rows[i] = f.in.row(run.segment, run.segment_begin, t - before + i);
      if (tile)
        forward_tokens<V, kTaps, kTaps == 0 ? 1 : kTile>(f, rows, t, first, last);
      else
        forward_tokens<V, kTaps, 1>(f, rows, t, first, last);
      t += tokens;
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

// state [C, K-1] = the last K-1 inputs before token t of a segment.
void save_state(View state, const Input& in, const Segments& segments, int64_t s) {
  for (int64_t j = 0; j < in.history; ++j) {
    const float* row = in.row(s, segments.begin(s), segments.end(s) - in.history + j);
    float* to = state.ptr<float>() + s * state.stride(0) + j;
    for (int64_t c = 0; c < state.dim(1); ++c) to[c * state.stride(1)] = row[c];
  }
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
  const int64_t reads = taps - 1 + kTile;
  const float** rows = row_pointers(scratch, thread_count() * reads);
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(a.x.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for_each_run(a.segments, begin, end,
                 [&](const Run& run) { body(f, run, rows + thread_index() * reads); });
  });
  if (!a.final_state) return;
  for (int64_t s = 0; s < a.segments.count(); ++s) save_state(a.final_state, f.in, a.segments, s);
}

}  // namespace nestling::cpu
