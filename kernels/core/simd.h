// simd.h - sixteen floats at a time, written once for every instruction set.
//
// Vf is a GCC vector of 16 floats: two AVX2 registers, or one AVX-512 register when the function
// it is inlined into carries NESTLING_TARGET_AVX512. Every helper is always inlined, so that it
// takes its caller's target. Contraction to FMA is on; no fast-math.
//
// Pattern       NESTLING_INLINE void body(...) { ... Vf ... }
//               static void run_avx2(...) { body(...); }
//               NESTLING_TARGET_AVX512 static void run_avx512(...) { body(...); }
//               caller: (cpu_isa() >= CpuIsa::kAvx512 ? run_avx512 : run_avx2)(...)
// Lambdas are functions of their own: inside a parallel_for, call the run_* function.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"
#include "kernels/core/isa.h"

namespace nestling::simd {

inline constexpr int64_t kLanes = 16;
using Vf = float __attribute__((vector_size(64)));
using Vi = int32_t __attribute__((vector_size(64)));
using Vu16 = uint16_t __attribute__((vector_size(32)));

NESTLING_INLINE Vf load(const float* p) {
  Vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
NESTLING_INLINE void store(float* p, Vf v) {
  std::memcpy(p, &v, sizeof v);
}
NESTLING_INLINE Vf splat(float x) {
  return x - Vf{};
}

// The first n lanes (n <= 16); the rest are zero and memory behind them is not touched.
NESTLING_INLINE Vf load_n(const float* p, int64_t n) {
  Vf v{};
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
NESTLING_INLINE void store_n(float* p, Vf v, int64_t n) {
  std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}

NESTLING_INLINE Vf load(const bf16* p) {
  Vu16 h;
  std::memcpy(&h, p, sizeof h);
  const Vi wide = __builtin_convertvector(h, Vi) << 16;
  return reinterpret_cast<Vf>(wide);
}

NESTLING_INLINE Vf select(Vi mask, Vf a, Vf b) {  // mask lanes are 0 or -1
  return reinterpret_cast<Vf>((reinterpret_cast<Vi>(a) & mask) | (reinterpret_cast<Vi>(b) & ~mask));
}
NESTLING_INLINE Vf min(Vf a, Vf b) {
  return select(a < b, a, b);
}
NESTLING_INLINE Vf max(Vf a, Vf b) {
  return select(a > b, a, b);
}

// Pairwise, in a fixed order: the same bits on every instruction set.
NESTLING_INLINE float sum(Vf v) {
  float lane[16];
  store(lane, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
NESTLING_INLINE float max_lane(Vf v) {
  float lane[16];
  store(lane, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// e^x, relative error below 2e-7 (tests/kernels/simd_test). x < -87.3 gives 0, x > 88.7 infinity,
// NaN stays NaN. Range reduction by ln 2 in two parts, degree-7 polynomial on [-ln2/2, ln2/2].
NESTLING_INLINE Vf exp(Vf x) {
  const Vf clamped = max(min(x, splat(88.8f)), splat(-87.4f));
  const Vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vf n = (clamped * splat(1.44269504088896341f) + magic) - magic;
  Vf r = clamped - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  Vf p = splat(1.9875691500e-4f);  // the coefficients of Cephes' expf (Moshier)
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  // 2^n in two halves so that both exponents stay in range.
  const Vi whole = __builtin_convertvector(n, Vi);
  const Vi half = whole >> 1;
  const Vf a = reinterpret_cast<Vf>((half + 127) << 23);
  const Vf b = reinterpret_cast<Vf>((whole - half + 127) << 23);
  Vf y = p * a * b;
  y = select(x < splat(-87.33654f), Vf{}, y);
  y = select(x > splat(88.72284f), splat(__builtin_inff()), y);
  return select(x != x, x, y);
}

NESTLING_INLINE Vf sigmoid(Vf x) {
  return splat(1.0f) / (splat(1.0f) + exp(-x));
}

}  // namespace nestling::simd
