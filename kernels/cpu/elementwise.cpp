#include "kernels/cpu/elementwise.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"
#include "kernels/cpu/convert.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;

enum class Kind : uint8_t { kAdd, kAddScaled, kScale };

struct Rows {
  float* y;
  const float* a;  // kAddScaled, kScale: y itself
  const float* b;  // kScale: unused
  int64_t y_pitch, a_pitch, b_pitch, cols;
  float factor;
};

template <Kind kKind>
NESTLING_INLINE auto apply(auto a, auto b, float factor) {
  if constexpr (kKind == Kind::kAdd) return a + b;
  if constexpr (kKind == Kind::kAddScaled) return a + b * factor;
  if constexpr (kKind == Kind::kScale) return a * factor;
}

template <class V, Kind kKind>
NESTLING_INLINE void rows(const Rows& r, int64_t begin, int64_t end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; ++t) {
    float* y = r.y + t * r.y_pitch;
    const float* a = r.a + t * r.a_pitch;
    const float* b = r.b + t * r.b_pitch;
    int64_t i = 0;
    for (; i + kN <= r.cols; i += kN)
      simd::store(y + i, apply<kKind>(simd::load<V>(a + i), simd::load<V>(b + i), r.factor));
    for (; i < r.cols; ++i) y[i] = apply<kKind>(a[i], b[i], r.factor);
  }
}
template <Kind kKind>
void rows_avx2(const Rows& r, int64_t begin, int64_t end) {
  rows<simd::F8, kKind>(r, begin, end);
}
template <Kind kKind>
NESTLING_TARGET_AVX512 void rows_avx512(const Rows& r, int64_t begin, int64_t end) {
  rows<simd::F16, kKind>(r, begin, end);
}

template <Kind kKind>
void run(View y, ConstView a, ConstView b, float factor) {
  Rows r{.y = y.ptr<float>(),
         .a = a.ptr<float>(),
         .b = b.ptr<float>(),
         .y_pitch = 0,
         .a_pitch = 0,
         .b_pitch = 0,
         .cols = y.dim(y.rank() - 1),
         .factor = factor};
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? rows_avx512<kKind> : rows_avx2<kKind>;
  if (y.dense() && a.dense() && b.dense()) {  // one long row, cut between the threads
    parallel_for(y.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
      Rows part = r;
      part.y += begin;
      part.a += begin;
      part.b += begin;
      part.cols = end - begin;
      body(part, 0, 1);
    });
    return;
  }
  r.y_pitch = y.pitch();
  r.a_pitch = a.pitch();
  r.b_pitch = b.pitch();
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / r.cols);
  parallel_for(y.rows(), grain, [&](int64_t begin, int64_t end) { body(r, begin, end); });
}

}  // namespace

void add(View y, ConstView a, ConstView b) {
  run<Kind::kAdd>(y, a, b, 1.0f);
}

void add_scaled(View y, ConstView x, float scale) {
  run<Kind::kAddScaled>(y, y, x, scale);
}

void scale(View x, float factor) {
  run<Kind::kScale>(x, x, x, factor);
}

void cast(View y, ConstView x) {
  convert(y, x);
}

}  // namespace nestling::cpu
