#include "kernels/core/peaks.h"

#include <algorithm>
#include <chrono>
#include <immintrin.h>
#include <limits>
#include <unistd.h>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"
#include "kernels/core/tensor.h"

namespace nestling {

namespace {

constexpr int64_t kRounds = 500000;
constexpr int kChains = 12;  // enough to hide the latency of an FMA on two ports

// Keeps a value in a register and the compiler from seeing through it.
#define NESTLING_OPAQUE(x) asm volatile("" : "+v"(x))

template <class V>
NESTLING_INLINE float fma_loop() {
  V a = simd::splat<V>(0.999f), b = simd::splat<V>(1e-3f);
  V s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a, s8 = a, s9 = a, s10 = a,
    s11 = a;
  for (int64_t i = 0; i < kRounds; ++i) {
#define NESTLING_STEP(s) \
  s = s * a + b;         \
  NESTLING_OPAQUE(s)
    NESTLING_STEP(s0);
    NESTLING_STEP(s1);
    NESTLING_STEP(s2);
    NESTLING_STEP(s3);
    NESTLING_STEP(s4);
    NESTLING_STEP(s5);
    NESTLING_STEP(s6);
    NESTLING_STEP(s7);
    NESTLING_STEP(s8);
    NESTLING_STEP(s9);
    NESTLING_STEP(s10);
    NESTLING_STEP(s11);
#undef NESTLING_STEP
  }
  return simd::sum(((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)) + ((s8 + s9) + (s10 + s11)));
}
float fma_avx2() {
  return fma_loop<simd::F8>();
}
NESTLING_TARGET_AVX512 float fma_avx512() {
  return fma_loop<simd::F16>();
}

NESTLING_TARGET_AVX512_BF16 float dot_bf16() {
  const __m512i ones = _mm512_set1_epi16(0x3f80);
  const auto a = reinterpret_cast<__m512bh>(ones);
  __m512 s[kChains];
  for (auto& x : s) x = _mm512_setzero_ps();
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      s[j] = _mm512_dpbf16_ps(s[j], a, a);
      NESTLING_OPAQUE(s[j]);
    }
  }
  for (int j = 1; j < kChains; ++j) s[0] += s[j];
  return simd::sum(s[0]);
}

double product_gflops(float (*loop)(), double flops_per_step, double longest) {
  const int threads = thread_count();
  const auto on_all = [&] {
    parallel_for(threads, 1, [&](int64_t, int64_t) {
      volatile float sink = loop();
      static_cast<void>(sink);
    });
  };
  const double seconds = best_seconds(on_all, longest);
  return static_cast<double>(kRounds) * kChains * flops_per_step * threads / seconds * 1e-9;
}

template <class V>
NESTLING_INLINE void copy_range(float* y, const float* x, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += simd::kLanesOf<V>) {
    V v = simd::load<V>(x + i);
    NESTLING_OPAQUE(v);  // stays this loop: no call of memcpy with its streaming stores
    simd::store(y + i, v);
  }
}
void copy_avx2(float* y, const float* x, int64_t begin, int64_t end) {
  copy_range<simd::F8>(y, x, begin, end);
}
NESTLING_TARGET_AVX512 void copy_avx512(float* y, const float* x, int64_t begin, int64_t end) {
  copy_range<simd::F16>(y, x, begin, end);
}

template <class V>
NESTLING_INLINE void read_range(const float* x, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += simd::kLanesOf<V>) {
    V v = simd::load<V>(x + i);
    NESTLING_OPAQUE(v);
  }
}
void read_avx2(const float* x, int64_t begin, int64_t end) {
  read_range<simd::F8>(x, begin, end);
}
NESTLING_TARGET_AVX512 void read_avx512(const float* x, int64_t begin, int64_t end) {
  read_range<simd::F16>(x, begin, end);
}
#undef NESTLING_OPAQUE

void measure_memory(Peaks& peaks) {
  constexpr int64_t kFallbackCache = int64_t{32} << 20;  // where the system does not say
  const int64_t reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const int64_t bytes = 4 * (reported > 0 ? reported : kFallbackCache);
  const int64_t n = bytes / 4;
  constexpr int64_t kGrain = 4096;
  Tensor x(Device::kCpu, DType::kF32, {n}), y(Device::kCpu, DType::kF32, {n});
  const auto* from = x.ptr<float>();
  auto* to = y.ptr<float>();
  const bool wide = cpu_isa() >= CpuIsa::kAvx512;
  const double copied = best_seconds([&] {
    parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
      (wide ? copy_avx512 : copy_avx2)(to, from, begin, end);
    });
  });
  const double read = best_seconds([&] {
    parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
      (wide ? read_avx512 : read_avx2)(from, begin, end);
    });
  });
  peaks.copy_gbytes_s = 2.0 * static_cast<double>(bytes) / copied * 1e-9;
  peaks.read_gbytes_s = static_cast<double>(bytes) / read * 1e-9;
  peaks.memory_mib = static_cast<double>(bytes) / (1 << 20);
}

}  // namespace

double best_seconds(const std::function<void()>& call, double longest) {
  using Clock = std::chrono::steady_clock;
  constexpr double kLeast = 2e-3;
  constexpr int kRepeats = 5, kMostRepeats = 50;
  const auto seconds = [&](int64_t calls) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) call();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  call();  // caches, pages and primitives
  const double one = seconds(1);
  const auto calls = std::max<int64_t>(1, static_cast<int64_t>(kLeast / std::max(one, 1e-8)));
  double best = std::numeric_limits<double>::infinity();
  double spent = 0;
  for (int i = 0; i < kRepeats || (spent < longest && i < kMostRepeats); ++i) {
    const double took = seconds(calls);
    spent += took;
    best = std::min(best, took / static_cast<double>(calls));
  }
  return best;
}

double product_peak(bool bf16, double longest) {
  if (bf16 && cpu_isa() == CpuIsa::kAvx512Bf16) return product_gflops(dot_bf16, 64, longest);
  const bool wide = cpu_isa() >= CpuIsa::kAvx512;
  return product_gflops(wide ? fma_avx512 : fma_avx2, wide ? 32 : 16, longest);
}

Peaks measure_peaks() {
  Peaks peaks;
  peaks.f32_gflops = product_peak(false, kLongestMeasurement);
  peaks.bf16_native = cpu_isa() == CpuIsa::kAvx512Bf16;
  peaks.bf16_gflops =
      peaks.bf16_native ? product_peak(true, kLongestMeasurement) : peaks.f32_gflops;
  measure_memory(peaks);
  return peaks;
}

}  // namespace nestling
