#include "kernels/ops/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kRowsPerTask = 16;

template <class V>
NESTLING_INLINE float dot_row(const float* a, const float* b, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kN <= n; i += 4 * kN)
    for (int64_t u = 0; u < 4; ++u)
      sums[u] += simd::load<V>(a + i + u * kN) * simd::load<V>(b + i + u * kN);
  for (; i + kN <= n; i += kN) sums[0] += simd::load<V>(a + i) * simd::load<V>(b + i);
  if (i < n) sums[1] += simd::load_n<V>(a + i, n - i) * simd::load_n<V>(b + i, n - i);
  return simd::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

struct Forward {
  float* y;
  float* rstd;
  const float* x;
  const float* w;
  int64_t y_pitch, x_pitch, width;
  float active, eps;
};

template <class V>
NESTLING_INLINE void forward_rows(const Forward& f, int64_t begin, int64_t end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = f.x + t * f.x_pitch;
    float* y = f.y + t * f.y_pitch;
    const float rstd = 1.0f / std::sqrt(dot_row<V>(x, x, f.width) / f.active + f.eps);
    f.rstd[t] = rstd;
    int64_t d = 0;
    for (; d + kN <= f.width; d += kN)
      simd::store(y + d, simd::load<V>(x + d) * rstd * simd::load<V>(f.w + d));
    for (; d < f.width; ++d) y[d] = x[d] * rstd * f.w[d];
  }
}
void forward_avx2(const Forward& f, int64_t begin, int64_t end) {
  forward_rows<simd::F8>(f, begin, end);
}
NESTLING_TARGET_AVX512 void forward_avx512(const Forward& f, int64_t begin, int64_t end) {
  forward_rows<simd::F16>(f, begin, end);
}

struct Backward {
  float* dx;
  const float* dy;
  const float* x;
  const float* w;
  const float* rstd;
  int64_t dx_pitch, dy_pitch, x_pitch, width;
  float active;
};

// dw [width] and dactive are this thread's own sums.
template <class V>
NESTLING_INLINE void backward_rows(const Backward& b, int64_t begin, int64_t end, float* dw,
                                   float* dactive) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = b.x + t * b.x_pitch;
    const float* dy = b.dy + t * b.dy_pitch;
    float* dx = b.dx + t * b.dx_pitch;
    const float rstd = b.rstd[t];
    V sums[2] = {};
    int64_t d = 0;
    for (; d + kN <= b.width; d += kN) {
      const V scaled = simd::load<V>(dy + d) * simd::load<V>(x + d);  // reused for dw
      sums[0] += scaled * simd::load<V>(b.w + d);
      simd::store(dw + d, simd::load<V>(dw + d) + scaled * rstd);
    }
    if (d < b.width) {
      const int64_t n = b.width - d;
      const V scaled = simd::load_n<V>(dy + d, n) * simd::load_n<V>(x + d, n);
      sums[1] += scaled * simd::load_n<V>(b.w + d, n);
      simd::store_n(dw + d, simd::load_n<V>(dw + d, n) + scaled * rstd, n);
    }
    const float dot = simd::sum(sums[0] + sums[1]);
    const float cube = rstd * rstd * rstd;
    const float pull = dot * cube / b.active;
    for (d = 0; d + kN <= b.width; d += kN)
      simd::store(dx + d, simd::load<V>(dy + d) * simd::load<V>(b.w + d) * rstd -
                              simd::load<V>(x + d) * pull);
    for (; d < b.width; ++d) dx[d] = dy[d] * b.w[d] * rstd - x[d] * pull;
    if (dactive != nullptr)
      *dactive += dot * cube * dot_row<V>(x, x, b.width) / (2.0f * b.active * b.active);
  }
}
void backward_avx2(const Backward& b, int64_t begin, int64_t end, float* dw, float* dactive) {
  backward_rows<simd::F8>(b, begin, end, dw, dactive);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, int64_t begin, int64_t end,
                                            float* dw, float* dactive) {
  backward_rows<simd::F16>(b, begin, end, dw, dactive);
}

float active_width(ConstView active, int64_t width) {
  return active ? active.ptr<float>()[0] : static_cast<float>(width);
}

}  // namespace

void run(Context&, const RmsNormForward& a) {
  const Forward f{.y = a.y.ptr<float>(),
                  .rstd = a.rstd.ptr<float>(),
                  .x = a.x.ptr<float>(),
                  .w = a.w.ptr<float>(),
                  .y_pitch = a.y.pitch(),
                  .x_pitch = a.x.pitch(),
                  .width = a.x.dim(1),
                  .active = active_width(a.active, a.x.dim(1)),
                  .eps = a.eps};
  auto* rows = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(a.x.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) { rows(f, begin, end); });
}

void run(Context& ctx, const RmsNormBackward& a) {
  const int64_t width = a.x.dim(1);
  const Backward b{.dx = a.dx.ptr<float>(),
                   .dy = a.dy.ptr<float>(),
                   .x = a.x.ptr<float>(),
                   .w = a.w.ptr<float>(),
                   .rstd = a.rstd.ptr<float>(),
                   .dx_pitch = a.dx.pitch(),
                   .dy_pitch = a.dy.pitch(),
                   .x_pitch = a.x.pitch(),
                   .width = width,
                   .active = active_width(a.active, width)};
  auto* rows = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;

  // Each thread sums its own rows; the parts are added in thread order.
  const Arena::Mark mark(ctx.scratch());
  const int threads = thread_count();
  const int64_t stride = width + simd::kLanes;  // dw, then dactive
  float* parts = ctx.scratch().floats(threads * stride);
  std::fill_n(parts, threads * stride, 0.0f);
  parallel_for(a.x.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    float* own = parts + thread_index() * stride;
    rows(b, begin, end, own, a.dactive ? own + width : nullptr);
  });
  auto* dw = a.dw.ptr<float>();
  for (int i = 0; i < threads; ++i) {
    for (int64_t d = 0; d < width; ++d) dw[d] += parts[i * stride + d];
    if (a.dactive) a.dactive.ptr<float>()[0] += parts[i * stride + width];
  }
}

}  // namespace nestling::cpu
