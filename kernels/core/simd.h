// simd.h - vectors of floats, written once for every instruction set.
//
// Bodies are templates over the vector type: F8 (AVX2, 8 floats) or F16 (AVX-512, 16 floats). Every
// helper is always inlined, so that it takes the target of the function it stands in. Contraction
// to FMA is on; no fast-math. A sum's order depends on the lanes, so results are bit-equal per
// instruction set, not across them.
//
// Pattern       template <class V> NESTLING_INLINE void body(...) { ... simd::load<V>(p) ... }
//               void run_avx2(...) { body<simd::F8>(...); }
//               NESTLING_TARGET_AVX512 void run_avx512(...) { body<simd::F16>(...); }
//               caller: (cpu_isa() >= CpuIsa::kAvx512 ? run_avx512 : run_avx2)(...)
// Never use F16 outside a NESTLING_TARGET_AVX512 function: it works, and is a hundred times slower.
// Lambdas are functions of their own: inside a parallel_for, call the run_* function.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"
#include "kernels/core/isa.h"

namespace nestling::simd {

using F8 = float __attribute__((vector_size(32)));
using F16 = float __attribute__((vector_size(64)));

template <class V>
struct Traits;
template <>
struct Traits<F8> {
  using Int = int32_t __attribute__((vector_size(32)));
  // Read from anywhere.
  using Half = uint16_t __attribute__((vector_size(16), aligned(1), may_alias));
  using Quarter = int8_t __attribute__((vector_size(8), aligned(1), may_alias));
  using Bytes = uint8_t __attribute__((vector_size(32)));
};
template <>
struct Traits<F16> {
  using Int = int32_t __attribute__((vector_size(64)));
  using Half = uint16_t __attribute__((vector_size(32), aligned(1), may_alias));
  using Quarter = int8_t __attribute__((vector_size(16), aligned(1), may_alias));
  using Bytes = uint8_t __attribute__((vector_size(64)));
};
template <class V>
using Int = typename Traits<V>::Int;
template <class V>
inline constexpr int64_t kLanesOf = sizeof(V) / sizeof(float);

// The widest vector, for sizes and scratch that must suit every instruction set.
using Vf = F16;
inline constexpr int64_t kLanes = kLanesOf<Vf>;

template <class V = Vf>
NESTLING_INLINE V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
NESTLING_INLINE void store(float* p, V v) {
  std::memcpy(p, &v, sizeof v);
}
template <class V = Vf>
NESTLING_INLINE V splat(float x) {
  return x - V{};
}

// The first n lanes; the rest are zero and memory behind them is not touched.
template <class V = Vf>
NESTLING_INLINE V load_n(const float* p, int64_t n) {
  V v{};
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
template <class V>
NESTLING_INLINE void store_n(float* p, V v, int64_t n) {
  std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}

// Narrower integers from anywhere, by the one instruction there is for it: GCC 12 makes of __builtin_convertvector two
// of halves that it joins, of bytes one for each.
template <class V>
NESTLING_INLINE Int<V> widen_halves(const void* p) {
  Int<V> wide;
  asm("vpmovzxwd %1, %0" : "=v"(wide) : "m"(*static_cast<const typename Traits<V>::Half*>(p)));
  return wide;
}
template <class V>
NESTLING_INLINE Int<V> widen_bytes(const void* p) {  // with their sign
  Int<V> wide;
  asm("vpmovsxbd %1, %0" : "=v"(wide) : "m"(*static_cast<const typename Traits<V>::Quarter*>(p)));
  return wide;
}

template <class V = Vf>
NESTLING_INLINE V load(const bf16* p) {
  return reinterpret_cast<V>(widen_halves<V>(p) << 16);
}

template <class V>
NESTLING_INLINE V select(Int<V> mask, V a, V b) {  // mask lanes are 0 or -1
  return mask ? a : b;                             // GCC makes it a compare and a blend
}
template <class V>
NESTLING_INLINE V min(V a, V b) {
  return select<V>(a < b, a, b);
}
template <class V>
NESTLING_INLINE V max(V a, V b) {
  return select<V>(a > b, a, b);
}

template <class V>
NESTLING_INLINE float sum(V v) {  // pairwise, in a fixed order
  constexpr int kCount = static_cast<int>(kLanesOf<V>);
  float lane[kCount];
  store(lane, v);
  for (int width = kCount / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
template <class V>
NESTLING_INLINE float max_lane(V v) {
  constexpr int kCount = static_cast<int>(kLanesOf<V>);
  float lane[kCount];
  store(lane, v);
  for (int width = kCount / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// e^x = fraction * 2^exponent, for x where that neither overflows nor underflows: range reduction by ln 2 in two
// parts, degree-7 polynomial on [-ln2/2, ln2/2] with the coefficients of Cephes' expf (Moshier).
template <class V>
struct SplitExp {
  V fraction;
  Int<V> exponent;
};
template <class V>
NESTLING_INLINE SplitExp<V> split_exp(V x) {
  const V magic = splat<V>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const V n = (x * 1.44269504088896341f + magic) - magic;
  V r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = splat<V>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return {.fraction = p, .exponent = __builtin_convertvector(n, Int<V>)};
}

// e^x, relative error below 2e-7 (tests/kernels/simd_test). x < -87.3 gives 0, x > 88.7 infinity,
// NaN stays NaN.
template <class V>
NESTLING_INLINE V exp(V x) {
  const SplitExp<V> e = split_exp(max(min(x, splat<V>(88.8f)), splat<V>(-87.4f)));
  // 2^exponent in two halves so that both are in range.
  const Int<V> half = e.exponent >> 1;
  const V a = reinterpret_cast<V>((half + 127) << 23);
  const V b = reinterpret_cast<V>((e.exponent - half + 127) << 23);
  V y = e.fraction * a * b;
  y = select<V>(x < splat<V>(-87.33654f), V{}, y);
  y = select<V>(x > splat<V>(88.72284f), splat<V>(__builtin_inff()), y);
  return select<V>(x != x, x, y);
}

// 1 / (1 + e^-x) to some units in the last place on both sides; NaN stays NaN. With e = e^-|x| in
// (0, 1] it is q or e q, q = 1 / (1 + e): the only range to guard is below -87.3, where e is 0.
// 1 + e lies in [1, 2], where the Chebyshev cubic (error 1/577) and two
// Newton steps, which square it, give the reciprocal in a fraction of a division's time.
template <class V>
NESTLING_INLINE V sigmoid(V x) {
  const V negative = reinterpret_cast<V>(reinterpret_cast<Int<V>>(x) | INT32_MIN);
  const SplitExp<V> split = split_exp(max(splat<V>(-87.33654f), negative));
  const V e = select<V>(negative < splat<V>(-87.33654f), V{},
                        split.fraction * reinterpret_cast<V>((split.exponent + 127) << 23));
  const V d = 1.0f + e;
  V q = ((-0.221837088f * d + 1.33102253f) * d - 2.93934142f) * d + 2.82842288f;
  q = q + q * (1.0f - d * q);
  q = q + q * (1.0f - d * q);
  return select<V>(x < V{}, e * q, q);
}

}  // namespace nestling::simd
