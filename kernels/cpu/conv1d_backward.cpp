// The convolution backward: du is computed once a token, dx follows K-1 tokens behind.
#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/conv1d_rows.h"
#include "kernels/ops/conv1d.h"

namespace nestling::cpu {

namespace {

using namespace conv1d;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Backward {
  float* dx;
  const float* dy;
  int64_t dx_pitch, dy_pitch, channels;
  Input in;
  Taps taps;
};

// A thread's own memory: du of the K-1 tokens before the ones in hand, and its sums.
struct Own {
  float* du;     // [K-1, pitch]
  float* dw;     // [K, pitch]
  float* dbias;  // [pitch]
  const float** rows;
};

// What to do with tokens t, t+1, ..: du_t = dy_t silu'(sum_t) is needed K-1 tokens behind a run,
// by dx, and is zero behind the segment.
struct Task {
  int64_t t;
  bool inside;  // the segment: du is computed, else zero
  bool owned;   // by the run: dw and dbias take du
  bool emit;    // dx of the tokens K-1 before these is complete and written
};

template <class V>
NESTLING_INLINE V gradient(V sum, V dy) {
  const V gate = simd::sigmoid(sum);
  return dy * (gate + sum * gate * (1.0f - gate));
}
template <class V>
NESTLING_INLINE void add(float* to, V v) {
  simd::store(to, simd::load<V>(to) + v);
}

// One token, any number of taps. dx_t = sum over k of w_k du_{t+K-1-k}.
template <class V>
NESTLING_INLINE void backward_any_taps(const Backward& b, const Own& own, const Task& task,
                                       int64_t c, int64_t n) {
  const int64_t taps = b.taps.count;
  const int64_t pitch = b.taps.pitch;
  V du = {};
  if (task.inside) {
    const V sum = tap_sum<V>(b.taps, own.rows, c, n);
    du = gradient(sum, read<V>(b.dy + task.t * b.dy_pitch + c, n));
  }
  if (task.owned) {
    add(own.dbias + c, du);
    for (int64_t k = 0; k < taps; ++k)
      add(own.dw + k * pitch + c, du * read<V>(own.rows[k] + c, n));
  }
  V dx = simd::load<V>(b.taps.w + c) * du;
  for (int64_t k = 1; k < taps; ++k)
    dx += simd::load<V>(b.taps.w + k * pitch + c) *
          simd::load<V>(own.du + (taps - 1 - k) * pitch + c);
  if (task.emit) write<V>(b.dx + (task.t - (taps - 1)) * b.dx_pitch + c, dx, n);
  for (int64_t j = 0; j + 2 < taps; ++j)
    simd::store(own.du + j * pitch + c, simd::load<V>(own.du + (j + 1) * pitch + c));
  if (taps > 1) simd::store(own.du + (taps - 2) * pitch + c, du);
}

// kTokens tokens; own.rows [kTaps - 1 + kTokens] are the inputs they read.
template <class V, int kTaps, int kTokens>
NESTLING_INLINE void backward_vector(const Backward& b, const Own& own, const Task& task, int64_t c,
                                     int64_t n) {
  const int64_t pitch = b.taps.pitch;
  const Weights<V, kTaps> weights(b.taps, c);
  V x[kTaps - 1 + kTokens];
  V du[kTaps - 1 + kTokens];
  V dw[kTaps] = {};
  V dbias = {};
#pragma GCC unroll 4
  for (int k = 0; k + 1 < kTaps; ++k) {
    du[k] = simd::load<V>(own.du + k * pitch + c);
    if (task.inside) x[k] = read<V>(own.rows[k] + c, n);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTokens; ++i) {
    constexpr int kLast = kTaps - 1;
    du[kLast + i] = V{};
    if (task.inside) {
      const float* dy = b.dy + (task.t + i) * b.dy_pitch + c;
      if constexpr (kTokens > 1) {
        __builtin_prefetch(own.rows[kLast + i] + c + kAhead);
        __builtin_prefetch(dy + kAhead);
      }
      x[kLast + i] = read<V>(own.rows[kLast + i] + c, n);
      du[kLast + i] = gradient(weights.sum(x + i), read<V>(dy, n));
    }
    if (task.owned) {
      dbias += du[kLast + i];
#pragma GCC unroll 4
      for (int k = 0; k < kTaps; ++k) dw[k] += du[kLast + i] * x[i + k];
    }
    if (task.emit) {
      V dx = weights.w[0] * du[kLast + i];
#pragma GCC unroll 4
      for (int k = 1; k < kTaps; ++k) dx += weights.w[k] * du[kLast + i - k];
      write<V>(b.dx + (task.t + i - kLast) * b.dx_pitch + c, dx, n);
    }
  }
  if (task.owned) {
    add(own.dbias + c, dbias);
#pragma GCC unroll 4
    for (int k = 0; k < kTaps; ++k) add(own.dw + k * pitch + c, dw[k]);
  }
#pragma GCC unroll 4
  for (int k = 0; k + 1 < kTaps; ++k) simd::store(own.du + k * pitch + c, du[kTokens + k]);
}

template <class V, int kTaps, int kTokens>
NESTLING_INLINE void backward_tokens(const Backward& b, const Own& own, const Task& task,
                                     int64_t first, int64_t last) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t c = first;
  for (; c + kN <= last; c += kN) {
    if constexpr (kTaps == 0)
      backward_any_taps<V>(b, own, task, c, kN);
    else
      backward_vector<V, kTaps, kTokens>(b, own, task, c, kN);
  }
  if (c == last) return;
  Own at = own;
  Task one = task;
  for (int i = 0; i < kTokens; ++i, ++one.t, ++at.rows)
    backward_any_taps<V>(b, at, one, c, last - c);
}

template <class V, int kTaps>
NESTLING_INLINE void backward_run(const Backward& b, const Run& run, const Own& own) {
  const int64_t before = b.taps.count - 1;
  for (int64_t first = 0; first < b.channels; first += kBlock) {
    const int64_t last = std::min(first + kBlock, b.channels);
    for (int64_t t = run.begin; t < run.end + before;) {
      const bool tile = kTaps > 0 && t - before >= run.begin && t + kTile <= run.end;
      const int64_t tokens = tile ? kTile : 1;
      const Task task{t, t < run.segment_end, t < run.end, t - before >= run.begin};
      if (task.inside)
        for (int64_t i = 0; i < before + tokens; ++i)
          own.rows[i] = b.in.row(run.segment, run.segment_begin, t - before + i);
      if (tile)
        backward_tokens<V, kTaps, kTaps == 0 ? 1 : kTile>(b, own, {t, true, true, true}, first,
                                                          last);
      else
        backward_tokens<V, kTaps, 1>(b, own, task, first, last);
      t += tokens;
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

}  // namespace

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
  const int64_t stride = 2 * taps * b.taps.pitch;
  float* parts = scratch.floats(threads * stride);
  std::fill_n(parts, threads * stride, 0.0f);
  const float** rows = row_pointers(scratch, threads * (taps - 1 + kTile));
  const auto own = [&](int i) {
    float* at = parts + i * stride;
    float* dw = at + (taps - 1) * b.taps.pitch;
    return Own{at, dw, dw + taps * b.taps.pitch, rows + i * (taps - 1 + kTile)};
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

}  // namespace nestling::cpu
