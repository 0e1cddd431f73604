#include "kernels/cpu/gemv.h"

#include <algorithm>

#include "kernels/core/f8e4m3.h"
#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"
#include "kernels/cpu/gemv_rows.h"

namespace nestling::cpu {

namespace {

template <class Y, class W>
struct Operands {
  Y* y;
  const float* x;
  const W* w;
  const float* bias;
  int64_t y_pitch, x_pitch, w_pitch, width;
  float scale;
  bool accumulate;
};

template <class V, class W>
NESTLING_INLINE V values(const W* p) {
  return simd::load<V>(p);
}
// The seven bits of size where a float has the last four of its exponent and the first three of its fraction are 2^-120
// times the value, below the normal ones too. NaN reads as 480.
template <class V>
NESTLING_INLINE V values(const f8e4m3* p) {
  constexpr auto kSignAndSize = static_cast<int32_t>(0x87f00000u);
  return reinterpret_cast<V>((simd::widen_bytes<V>(p) << 20) & kSignAndSize) * 0x1.0p120f;
}

// Whether a code of NaN was among those seen; kVectors vectors of them at a time, a whole one in bytes.
template <class V, class W>
struct NanWatch {
  static constexpr int kVectors = 1;
  NESTLING_INLINE void see(const W* /*p*/) {}
  NESTLING_INLINE bool seen() const { return false; }
};
template <class V>
struct NanWatch<V, f8e4m3> {
  static constexpr int kVectors = 4;
  using Bytes = typename simd::Traits<V>::Bytes;
  Bytes largest{};  // twice a size: without the sign
  NESTLING_INLINE void see(const f8e4m3* p) {
    Bytes codes;
    std::memcpy(&codes, p, sizeof codes);
    codes += codes;
    largest = codes > largest ? codes : largest;
  }
  NESTLING_INLINE bool seen() const {
    uint8_t each[sizeof largest];
    std::memcpy(each, &largest, sizeof each);
    return std::any_of(each, std::end(each), [](uint8_t size) { return size == 2 * 0x7f; });
  }
};

template <class W>
bool any_nan(const W* /*row*/, int64_t /*width*/) {
  return false;
}
bool any_nan(const f8e4m3* row, int64_t width) {
  return std::any_of(row, row + width, [](f8e4m3 code) { return (code.bits & 0x7f) == 0x7f; });
}

// kRows rows of x against kCols rows of w. Each sum is one chain of FMAs over K and a fixed tree.
template <class V, int kRows, int kCols, class Y, class W>
NESTLING_INLINE void tile(const Operands<Y, W>& o, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  constexpr int64_t kStep = kN * NanWatch<V, W>::kVectors;
  V sums[kRows][kCols] = {};
  NanWatch<V, W> nan;
  const W* w = o.w + n * o.w_pitch;
  int64_t k = 0;
  for (; k + kStep <= o.width; k += kStep) {
    for (int j = 0; j < kCols; ++j) nan.see(w + j * o.w_pitch + k);
    for (int64_t at = k; at < k + kStep; at += kN) {
      V x[kRows];
      for (int i = 0; i < kRows; ++i) x[i] = simd::load<V>(o.x + i * o.x_pitch + at);
      for (int j = 0; j < kCols; ++j) {
        const V wj = values<V>(w + j * o.w_pitch + at);
        for (int i = 0; i < kRows; ++i) sums[i][j] += x[i] * wj;
      }
    }
  }
  if (k < o.width) {
#pragma GCC unroll 4  // an index known at run time would keep the sums in memory
    for (int j = 0; j < kCols; ++j) {
      W padded[kStep] = {};
      std::copy_n(w + j * o.w_pitch + k, o.width - k, padded);
      nan.see(padded);
      for (int64_t at = k; at < o.width; at += kN) {
        const V wj = values<V>(padded + at - k);
        const int64_t count = std::min(kN, o.width - at);
        for (int i = 0; i < kRows; ++i)
          sums[i][j] += simd::load_n<V>(o.x + i * o.x_pitch + at, count) * wj;
      }
    }
  }
  if (nan.seen())
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j)
      if (any_nan(w + j * o.w_pitch, o.width))
        for (int i = 0; i < kRows; ++i) sums[i][j] += __builtin_nanf("");
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kCols; ++j) {
      float value = o.scale * simd::sum(sums[i][j]);
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
  parallel_for(n, gemv_grain(row_bytes), [&](int64_t begin, int64_t end) { body(o, begin, end); });
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
                         .scale = a.scale,
                         .accumulate = a.accumulate};
  const int64_t n = a.w.dim(0);
  with_gemv_rows("gemv", a.x, [&](auto rows) { gemv_rows<decltype(rows)::value>(o, n); });
}

}  // namespace

void gemv(const Gemv& a) {
  if (a.w.dtype() == DType::kF32)
    gemv_as<float, float>(a);
  else if (a.w.dtype() == DType::kF8E4M3)
    gemv_as<float, f8e4m3>(a);
  else if (a.y.dtype() == DType::kF32)
    gemv_as<float, bf16>(a);
  else
    gemv_as<bf16, bf16>(a);
}

}  // namespace nestling::cpu
