#include "kernels/ops/gated_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kRowsPerTask = 4;

// A [T, H, P] operand: floats from token to token and from head to head.
struct Rows {
  float* data;
  int64_t token, head;
  float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};
Rows rows_of(View v) {
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}
struct ConstRows {
  const float* data;
  int64_t token, head;
  const float* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};
ConstRows rows_of(ConstView v) {
  return {v.ptr<float>(), v.stride(0), v.stride(1)};
}

struct Shape {
  int64_t heads, channels, groups;
  float active;
};
Shape shape_of(ConstView y, ConstView rstd, ConstView active) {
  const int64_t groups = rstd.dim(1);
  const int64_t group_channels = y.dim(1) / groups * y.dim(2);
  return {y.dim(1), y.dim(2), groups,
          active ? active.ptr<float>()[0] : static_cast<float>(group_channels)};
}

struct Forward {
  Shape s;
  Rows out;
  float* rstd;
  int64_t rstd_pitch;
  ConstRows y, z;
  const float* w;
  int64_t w_pitch;
  float eps;
};

// out = y silu(z) for n channels; returns the sum of squares, lane by lane.
template <class V>
NESTLING_INLINE V gate_run(float* out, const float* y, const float* z, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V squares = {};
  int64_t p = 0;
  for (; p + kN <= n; p += kN) {
    const V zv = simd::load<V>(z + p);
    const V u = simd::load<V>(y + p) * zv * simd::sigmoid(zv);
    simd::store(out + p, u);
    squares += u * u;
  }
  if (p < n) {
    const V zv = simd::load_n<V>(z + p, n - p);
    const V u = simd::load_n<V>(y + p, n - p) * zv * simd::sigmoid(zv);
    simd::store_n(out + p, u, n - p);
    squares += u * u;
  }
  return squares;
}

template <class V>
NESTLING_INLINE void scale_run(float* out, const float* w, float rstd, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t p = 0;
  for (; p + kN <= n; p += kN)
    simd::store(out + p, simd::load<V>(out + p) * rstd * simd::load<V>(w + p));
  for (; p < n; ++p) out[p] = out[p] * rstd * w[p];
}

// sums [G, kLanes] is scratch.
template <class V>
NESTLING_INLINE void forward_rows(const Forward& f, int64_t begin, int64_t end, float* sums) {
  const Shape& s = f.s;
  for (int64_t t = begin; t < end; ++t) {
    std::fill_n(sums, s.groups * simd::kLanes, 0.0f);
    for (int64_t h = 0; h < s.heads; ++h) {
      float* sum = sums + h % s.groups * simd::kLanes;
      const V squares = gate_run<V>(f.out.at(t, h), f.y.at(t, h), f.z.at(t, h), s.channels);
      simd::store(sum, simd::load<V>(sum) + squares);
    }
    float* rstd = f.rstd + t * f.rstd_pitch;
    for (int64_t g = 0; g < s.groups; ++g)
      rstd[g] =
          1.0f / std::sqrt(simd::sum(simd::load<V>(sums + g * simd::kLanes)) / s.active + f.eps);
    for (int64_t h = 0; h < s.heads; ++h)
      scale_run<V>(f.out.at(t, h), f.w + h * f.w_pitch, rstd[h % s.groups], s.channels);
  }
}
void forward_avx2(const Forward& f, int64_t begin, int64_t end, float* sums) {
  forward_rows<simd::F8>(f, begin, end, sums);
}
NESTLING_TARGET_AVX512 void forward_avx512(const Forward& f, int64_t begin, int64_t end,
                                           float* sums) {
  forward_rows<simd::F16>(f, begin, end, sums);
}

struct Backward {
  Shape s;
  Rows dy, dz;
  ConstRows dout, y, z;
  const float* w;
  int64_t w_pitch;
  const float* rstd;
  int64_t rstd_pitch;
  bool soft;
};

// A thread's own memory.
struct Own {
  float* gate;    // [H * P] sigmoid(z) of the row in hand
  float* dots;    // [2, G, kLanes] sums of dout w u and of u^2
  float* dw;      // [H * P]
  float* active;  // [1]
};

template <class V>
struct Dots {
  V dot = {};
  V squares = {};
};

// First sweep over n channels of a row: the gate, dw, and what the group's sums need.
template <class V>
NESTLING_INLINE Dots<V> first_run(const float* dout, const float* y, const float* z, const float* w,
                                  float rstd, float* gate, float* dw, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  Dots<V> sums;
  int64_t p = 0;
  for (; p + kN <= n; p += kN) {
    const V zv = simd::load<V>(z + p);
    const V g = simd::sigmoid(zv);
    simd::store(gate + p, g);
    const V u = simd::load<V>(y + p) * zv * g;
    const V scaled = simd::load<V>(dout + p) * u;
    sums.dot += scaled * simd::load<V>(w + p);
    sums.squares += u * u;
    simd::store(dw + p, simd::load<V>(dw + p) + scaled * rstd);
  }
  if (p < n) {
    const int64_t rest = n - p;
    const V zv = simd::load_n<V>(z + p, rest);
    const V g = simd::sigmoid(zv);
    simd::store_n(gate + p, g, rest);
    const V u = simd::load_n<V>(y + p, rest) * zv * g;
    const V scaled = simd::load_n<V>(dout + p, rest) * u;
    sums.dot += scaled * simd::load_n<V>(w + p, rest);
    sums.squares += u * u;
    simd::store_n(dw + p, simd::load_n<V>(dw + p, rest) + scaled * rstd, rest);
  }
  return sums;
}

// Second sweep: du = dout w rstd - u pull, then through y silu(z).
template <class V>
NESTLING_INLINE void second_run(const Backward& b, int64_t t, int64_t h, const float* gate,
                                float rstd, float pull) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  const float* dout = b.dout.at(t, h);
  const float* y = b.y.at(t, h);
  const float* z = b.z.at(t, h);
  const float* w = b.w + h * b.w_pitch;
  float* dy = b.dy.at(t, h);
  float* dz = b.dz.at(t, h);
  const int64_t n = b.s.channels;
  int64_t p = 0;
  for (; p + kN <= n; p += kN) {
    const V zv = simd::load<V>(z + p);
    const V yv = simd::load<V>(y + p);
    const V g = simd::load<V>(gate + p);
    const V silu = zv * g;
    const V du = simd::load<V>(dout + p) * simd::load<V>(w + p) * rstd - yv * silu * pull;
    simd::store(dy + p, du * silu);
    simd::store(dz + p, du * yv * (g + silu * (1.0f - g)));
  }
  for (; p < n; ++p) {
    const float silu = z[p] * gate[p];
    const float yp = y[p];
    const float du = dout[p] * w[p] * rstd - yp * silu * pull;
    dy[p] = du * silu;
    dz[p] = du * yp * (gate[p] + silu * (1.0f - gate[p]));
  }
}

template <class V>
NESTLING_INLINE void backward_rows(const Backward& b, int64_t begin, int64_t end, const Own& own) {
  const Shape& s = b.s;
  float* squares = own.dots + s.groups * simd::kLanes;
  for (int64_t t = begin; t < end; ++t) {
    const float* rstd = b.rstd + t * b.rstd_pitch;
    std::fill_n(own.dots, 2 * s.groups * simd::kLanes, 0.0f);
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t g = h % s.groups;
      const Dots<V> sums =
          first_run<V>(b.dout.at(t, h), b.y.at(t, h), b.z.at(t, h), b.w + h * b.w_pitch, rstd[g],
                       own.gate + h * s.channels, own.dw + h * s.channels, s.channels);
      float* dot = own.dots + g * simd::kLanes;
      simd::store(dot, simd::load<V>(dot) + sums.dot);
      float* square = squares + g * simd::kLanes;
      simd::store(square, simd::load<V>(square) + sums.squares);
    }
    for (int64_t g = 0; g < s.groups; ++g) {
      const float cube = rstd[g] * rstd[g] * rstd[g];
      const float dot = simd::sum(simd::load<V>(own.dots + g * simd::kLanes));
      const float sum = simd::sum(simd::load<V>(squares + g * simd::kLanes));
      own.dots[g * simd::kLanes] = dot * cube / s.active;  // the pull
      if (b.soft) *own.active += dot * cube * sum / (2.0f * s.active * s.active);
    }
    for (int64_t h = 0; h < s.heads; ++h)
      second_run<V>(b, t, h, own.gate + h * s.channels, rstd[h % s.groups],
                    own.dots[h % s.groups * simd::kLanes]);
  }
}
void backward_avx2(const Backward& b, int64_t begin, int64_t end, const Own& own) {
  backward_rows<simd::F8>(b, begin, end, own);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, int64_t begin, int64_t end,
                                            const Own& own) {
  backward_rows<simd::F16>(b, begin, end, own);
}

}  // namespace

void run(Context& ctx, const GatedNormForward& a) {
  const Forward f{.s = shape_of(a.y, a.rstd, a.active),
                  .out = rows_of(a.out),
                  .rstd = a.rstd.ptr<float>(),
                  .rstd_pitch = a.rstd.stride(0),
                  .y = rows_of(a.y),
                  .z = rows_of(a.z),
                  .w = a.w.ptr<float>(),
                  .w_pitch = a.w.stride(0),
                  .eps = a.eps};
  const Arena::Mark mark(ctx.scratch());
  const int64_t per_thread = f.s.groups * simd::kLanes;
  float* sums = ctx.scratch().floats(thread_count() * per_thread);
  auto* rows = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(a.y.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    rows(f, begin, end, sums + thread_index() * per_thread);
  });
}

void run(Context& ctx, const GatedNormBackward& a) {
  const Backward b{.s = shape_of(a.y, a.rstd, a.active),
                   .dy = rows_of(a.dy),
                   .dz = rows_of(a.dz),
                   .dout = rows_of(a.dout),
                   .y = rows_of(a.y),
                   .z = rows_of(a.z),
                   .w = a.w.ptr<float>(),
                   .w_pitch = a.w.stride(0),
                   .rstd = a.rstd.ptr<float>(),
                   .rstd_pitch = a.rstd.stride(0),
                   .soft = static_cast<bool>(a.dactive)};
  // Each thread sums its own rows; the parts are added in thread order.
  const Arena::Mark mark(ctx.scratch());
  const int threads = thread_count();
  const int64_t width = b.s.heads * b.s.channels;
  const int64_t sums = 2 * b.s.groups * simd::kLanes;
  const int64_t stride = (2 * width + sums + 1 + simd::kLanes - 1) / simd::kLanes * simd::kLanes;
  float* parts = ctx.scratch().floats(threads * stride);
  std::fill_n(parts, threads * stride, 0.0f);
  const auto own = [&](int i) {
    float* at = parts + i * stride;
    return Own{at, at + width, at + width + sums, at + 2 * width + sums};
  };
  auto* rows = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;
  parallel_for(a.y.dim(0), kRowsPerTask,
               [&](int64_t begin, int64_t end) { rows(b, begin, end, own(thread_index())); });
  auto* dw = a.dw.ptr<float>();
  for (int i = 0; i < threads; ++i) {
    for (int64_t h = 0; h < b.s.heads; ++h)
      for (int64_t p = 0; p < b.s.channels; ++p)
        dw[h * a.dw.stride(0) + p] += own(i).dw[h * b.s.channels + p];
    if (a.dactive) a.dactive.ptr<float>()[0] += *own(i).active;
  }
}

}  // namespace nestling::cpu
