#include "kernels/cpu/gemv.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kBytesPerTask = 32768;  // of w: about 2 us of reading, a few times a fork

template <class Y, class W>
struct Operands {
  Y* y;
  const float* x;
  const W* w;
  const float* bias;
  int64_t y_pitch, x_pitch, w_pitch, width;
  bool accumulate;
};

template <class V>
NESTLING_INLINE V load_tail(const float* p, int64_t n) {
  return simd::load_n<V>(p, n);
}
template <class V>
NESTLING_INLINE V load_tail(const bf16* p, int64_t n) {
  bf16 padded[simd::kLanesOf<V>] = {};
  std::copy_n(p, n, padded);
  return simd::load<V>(padded);
}

// kRows rows of x against kCols rows of w. Each sum is one chain of FMAs over K and a fixed tree.
template <class V, int kRows, int kCols, class Y, class W>
NESTLING_INLINE void tile(const Operands<Y, W>& o, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V sums[kRows][kCols] = {};
  const W* w = o.w + n * o.w_pitch;
  int64_t k = 0;
  for (; k + kN <= o.width; k += kN) {
    V x[kRows];
    for (int i = 0; i < kRows; ++i) x[i] = simd::load<V>(o.x + i * o.x_pitch + k);
    for (int j = 0; j < kCols; ++j) {
      const V wj = simd::load<V>(w + j * o.w_pitch + k);
      for (int i = 0; i < kRows; ++i) sums[i][j] += x[i] * wj;
    }
  }
  if (k < o.width) {
    for (int j = 0; j < kCols; ++j) {
      const V wj = load_tail<V>(w + j * o.w_pitch + k, o.width - k);
      for (int i = 0; i < kRows; ++i)
        sums[i][j] += simd::load_n<V>(o.x + i * o.x_pitch + k, o.width - k) * wj;
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kCols; ++j) {
      float value = simd::sum(sums[i][j]);
      if (o.bias != nullptr) value += o.bias[n + j];
      Y& y = o.y[i * o.y_pitch + n + j];
      if (o.accumulate) value += static_cast<float>(y);
      y = static_cast<Y>(value);
    }
}

template <class V, int kRows, int kCols, class Y, class W>
NESTLING_INLINE void columns(const Operands<Y, W>& o, int64_t begin, int64_t end) {
  int64_t n = begin;
  for (; n + kCols <= end; n += kCols) tile<V, kRows, kCols>(o, n);
  for (; n < end; ++n) tile<V, kRows, 1>(o, n);
}
// AVX2 has half the registers of half the size.
template <int kRows, class Y, class W>
void columns_avx2(const Operands<Y, W>& o, int64_t begin, int64_t end) {
  columns<simd::F8, kRows, kRows <= 2 ? 4 : 2>(o, begin, end);
}
template <int kRows, class Y, class W>
NESTLING_TARGET_AVX512 void columns_avx512(const Operands<Y, W>& o, int64_t begin, int64_t end) {
  columns<simd::F16, kRows, 4>(o, begin, end);
}

template <int kRows, class Y, class W>
void gemv_rows(const Operands<Y, W>& o, int64_t n) {
  auto* body =
      cpu_isa() >= CpuIsa::kAvx512 ? columns_avx512<kRows, Y, W> : columns_avx2<kRows, Y, W>;
  const auto row_bytes = o.width * static_cast<int64_t>(sizeof(W));
  const int64_t grain = std::max<int64_t>(4, kBytesPerTask / row_bytes / 4 * 4);
  parallel_for(n, grain, [&](int64_t begin, int64_t end) { body(o, begin, end); });
}

template <class Y, class W>
void gemv_as(const Gemv& a) {
  const Operands<Y, W> o{.y = a.y.ptr<Y>(),
                         .x = a.x.ptr<float>(),
                         .w = a.w.ptr<W>(),
                         .bias = a.bias ? a.bias.ptr<float>() : nullptr,
                         .y_pitch = a.y.pitch(),
                         .x_pitch = a.x.pitch(),
                         .w_pitch = a.w.pitch(),
                         .width = a.w.dim(1),
                         .accumulate = a.accumulate};
  const int64_t n = a.w.dim(0);
  switch (a.x.dim(0)) {
    case 1:
      return gemv_rows<1>(o, n);
    case 2:
      return gemv_rows<2>(o, n);
    case 3:
      return gemv_rows<3>(o, n);
    case 4:
      return gemv_rows<4>(o, n);
    default:
      throw Error(str("gemv: x ", a.x.describe(), ", needs 1 to ", kGemvRows, " rows"));
  }
}

}  // namespace

void gemv(const Gemv& a) {
  if (a.w.dtype() == DType::kF32)
    gemv_as<float, float>(a);
  else if (a.y.dtype() == DType::kF32)
    gemv_as<float, bf16>(a);
  else
    gemv_as<bf16, bf16>(a);
}

}  // namespace nestling::cpu
