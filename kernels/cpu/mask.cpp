#include "kernels/ops/mask.h"

#include <algorithm>

#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

// The mask with one entry a channel: m itself, or its entries repeated into scratch.
const float* per_channel(Context& ctx, ConstView m, int64_t repeat) {
  const auto* from = m.ptr<float>();
  if (repeat == 1) return from;
  float* to = ctx.scratch().floats(m.dim(0) * repeat);
  for (int64_t i = 0; i < m.dim(0); ++i) std::fill_n(to + i * repeat, repeat, from[i]);
  return to;
}

struct Multiply {
  float* y;
  const float* x;
  const float* m;
  int64_t y_pitch, x_pitch;
  template <class V, bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    store_some<V, full>(y + t * y_pitch + d,
                        load_some<V, full>(x + t * x_pitch + d, n) * load_some<V, full>(m + d, n),
                        n);
  }
};

struct Backward {
  float* dx;
  const float* dy;
  const float* x;
  const float* m;
  int64_t dx_pitch, dy_pitch, x_pitch, width;
};

constexpr int64_t kRowsAtOnce = 4;  // dm is read and written once for so many rows

template <class V, bool full>
NESTLING_INLINE void backward_step(const Backward& b, int64_t t, int64_t rows, int64_t d, int64_t n,
                                   float* dm) {
  const V mask = load_some<V, full>(b.m + d, n);
  V sum = load_some<V, full>(dm + d, n);
  for (int64_t r = t; r < t + rows; ++r) {
    const V dy = load_some<V, full>(b.dy + r * b.dy_pitch + d, n);
    sum += dy * load_some<V, full>(b.x + r * b.x_pitch + d, n);
    store_some<V, full>(b.dx + r * b.dx_pitch + d, dy * mask, n);
  }
  store_some<V, full>(dm + d, sum, n);
}

// dm [width] are this thread's own sums.
template <class V>
NESTLING_INLINE void backward_rows(const Backward& b, int64_t begin, int64_t end, float* dm) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; t += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, end - t);
    int64_t d = 0;
    for (; d + kN <= b.width; d += kN) backward_step<V, true>(b, t, rows, d, kN, dm);
    if (d < b.width) backward_step<V, false>(b, t, rows, d, b.width - d, dm);
  }
}
void backward_avx2(const Backward& b, int64_t begin, int64_t end, float* dm) {
  backward_rows<simd::F8>(b, begin, end, dm);
}
NESTLING_TARGET_AVX512 void backward_avx512(const Backward& b, int64_t begin, int64_t end,
                                            float* dm) {
  backward_rows<simd::F16>(b, begin, end, dm);
}

}  // namespace

void run(Context& ctx, const MaskForward& a) {
  const Arena::Mark mark(ctx.scratch());
  sweep(Multiply{.y = a.y.ptr<float>(),
                 .x = a.x.ptr<float>(),
                 .m = per_channel(ctx, a.m, a.repeat),
                 .y_pitch = a.y.pitch(),
                 .x_pitch = a.x.pitch()},
        a.x.dim(0), a.x.dim(1));
}

void run(Context& ctx, const MaskBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t width = a.x.dim(1);
  const float* mask = per_channel(ctx, a.m, a.repeat);
  if (!a.dm) {
    sweep(Multiply{.y = a.dx.ptr<float>(),
                   .x = a.dy.ptr<float>(),
                   .m = mask,
                   .y_pitch = a.dx.pitch(),
                   .x_pitch = a.dy.pitch()},
          a.x.dim(0), width);
    return;
  }
  const Backward b{.dx = a.dx.ptr<float>(),
                   .dy = a.dy.ptr<float>(),
                   .x = a.x.ptr<float>(),
                   .m = mask,
                   .dx_pitch = a.dx.pitch(),
                   .dy_pitch = a.dy.pitch(),
                   .x_pitch = a.x.pitch(),
                   .width = width};
  auto* rows = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;

  // Each thread sums its own rows; the parts are added in thread order.
  const int threads = thread_count();
  const int64_t stride = width + simd::kLanes;
  float* parts = ctx.scratch().floats(threads * stride);
  std::fill_n(parts, threads * stride, 0.0f);
  const int64_t grain = (rows_per_task(width) + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  parallel_for(a.x.dim(0), grain, [&](int64_t begin, int64_t end) {
    rows(b, begin, end, parts + thread_index() * stride);
  });
  auto* dm = a.dm.ptr<float>();
  for (int i = 0; i < threads; ++i)
    for (int64_t d = 0; d < width; ++d) dm[d / a.repeat] += parts[i * stride + d];
}

}  // namespace nestling::cpu
