// gemv_nvfp4.cpp - gemv on NVFP4 codes.
//
// Integers      twice the value of a code is a whole number of at most 12. Those of w, with 12 added, are unsigned bytes
//               and those of x signed ones: what the products of bytes take. What the 12 add depends on x alone and
//               is taken off again.
// Target        AVX2 on every machine: what wider vectors would save in instructions the memory takes anyway, and
//               so results are the same bits on all.
#include <algorithm>
#include <immintrin.h>

#include "kernels/core/f8e4m3.h"
#include "kernels/core/nvfp4.h"
#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"
#include "kernels/cpu/gemv_rows.h"

namespace nestling::cpu {

namespace {

using simd::F8;
using I8 = simd::Int<F8>;

constexpr int64_t kCodes = 128, kBytes = kCodes / 2, kBlocks = kCodes / kNvfp4Block;  // of a step
constexpr int64_t kHalf = kBytes / 2;

struct Nvfp4Operands {
  float* y;
  const uint8_t *x, *w;
  const f8e4m3 *x_scales, *w_scales;
  int64_t y_pitch, x_pitch, w_pitch, x_scales_pitch, w_scales_pitch, blocks;
  float scale;
  bool accumulate;
};

// Twice the values of 64 codes: of the lower halves of 32 bytes, and of the upper ones.
struct Doubled {
  __m256i low, high;
};
NESTLING_INLINE Doubled doubled(const uint8_t* codes, __m256i table) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i nibble = _mm256_set1_epi8(15);
  return {
      .low = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble)),
      .high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble))};
}

// Sums of products, 8 codes to a lane: two lanes a block.
NESTLING_INLINE __m256i products(Doubled of_w, Doubled of_x) {
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(of_w.low, of_x.low),
                                         _mm256_maddubs_epi16(of_w.high, of_x.high));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

NESTLING_INLINE __m256i signed_table() {
  const __m128i t = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
  return _mm256_broadcastsi128_si256(t);
}
NESTLING_INLINE __m256i raised_table() {
  return _mm256_add_epi8(signed_table(), _mm256_set1_epi8(12));
}

// Scales of 8 blocks, times 2^-120: see values() of gemv.cpp. NaN stays NaN.
NESTLING_INLINE F8 scales_of(const f8e4m3* p) {
  const I8 bits = simd::widen_bytes<F8>(p) << 20;
  const I8 size = bits & 0x07f00000;
  return reinterpret_cast<F8>((bits & static_cast<int32_t>(0x87f00000u)) | (size == 0x07f00000));
}
// Each of four scales for both lanes of its block.
template <int kPart>
NESTLING_INLINE F8 twice(F8 s) {
  constexpr int kFirst = 4 * kPart;
  return __builtin_shufflevector(s, s, kFirst, kFirst, kFirst + 1, kFirst + 1, kFirst + 2,
                                 kFirst + 2, kFirst + 3, kFirst + 3);
}

// What a row of x, or of w, has at a step.
struct Step {
  const uint8_t* codes;
  const f8e4m3* scales;
};

template <int kPart, int kRows, int kCols>
NESTLING_INLINE void half_step(F8 (&sums)[kRows][kCols], const Step* x, const F8* x_scales,
                               const Step* w, const F8* w_scales) {
  const Doubled twelve = {_mm256_set1_epi8(12), _mm256_set1_epi8(12)};
  Doubled of_x[kRows];
  __m256i raised[kRows];  // by what 12 more in every code of w adds
  F8 scale[kRows];
  for (int i = 0; i < kRows; ++i) {
    of_x[i] = doubled(x[i].codes + kPart * kHalf, signed_table());
    raised[i] = products(twelve, of_x[i]);
    scale[i] = twice<kPart>(x_scales[i]);
  }
  for (int j = 0; j < kCols; ++j) {
    const Doubled of_w = doubled(w[j].codes + kPart * kHalf, raised_table());
    const F8 w_scale = twice<kPart>(w_scales[j]);
    for (int i = 0; i < kRows; ++i) {
      const __m256i whole = _mm256_sub_epi32(products(of_w, of_x[i]), raised[i]);
      sums[i][j] += reinterpret_cast<F8>(_mm256_cvtepi32_ps(whole)) * (scale[i] * w_scale);
    }
  }
}

template <int kRows, int kCols>
NESTLING_INLINE void step(F8 (&sums)[kRows][kCols], const Step* x, const Step* w) {
  F8 x_scales[kRows], w_scales[kCols];
  // 2^240 for both scales, a quarter for both doubled codes.
  for (int i = 0; i < kRows; ++i) x_scales[i] = scales_of(x[i].scales) * 0x1.0p120f * 0x1.0p118f;
  for (int j = 0; j < kCols; ++j) w_scales[j] = scales_of(w[j].scales);
  half_step<0>(sums, x, x_scales, w, w_scales);
  half_step<1>(sums, x, x_scales, w, w_scales);
}

// The last blocks of a row, and zeros.
struct PaddedStep {
  uint8_t codes[kBytes] = {};
  f8e4m3 scales[kBlocks] = {};
  Step of(Step from, int64_t blocks) {
    std::copy_n(from.codes, blocks * (kNvfp4Block / 2), codes);
    std::copy_n(from.scales, blocks, scales);
    return {codes, scales};
  }
};

// kRows rows of x against kCols rows of w. Each sum is one chain of FMAs over K and a fixed tree.
template <int kRows, int kCols>
void tile(const Nvfp4Operands& o, int64_t n) {
  F8 sums[kRows][kCols] = {};
  Step x[kRows], w[kCols];
  for (int i = 0; i < kRows; ++i) x[i] = {o.x + i * o.x_pitch, o.x_scales + i * o.x_scales_pitch};
  for (int j = 0; j < kCols; ++j)
    w[j] = {o.w + (n + j) * o.w_pitch, o.w_scales + (n + j) * o.w_scales_pitch};
  int64_t b = 0;
  for (; b + kBlocks <= o.blocks; b += kBlocks) {
    step(sums, x, w);
    for (Step& s : x) s = {s.codes + kBytes, s.scales + kBlocks};
    for (Step& s : w) s = {s.codes + kBytes, s.scales + kBlocks};
  }
  if (b < o.blocks) {
    PaddedStep x_last[kRows], w_last[kCols];
    for (int i = 0; i < kRows; ++i) x[i] = x_last[i].of(x[i], o.blocks - b);
    for (int j = 0; j < kCols; ++j) w[j] = w_last[j].of(w[j], o.blocks - b);
    step(sums, x, w);
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kCols; ++j) {
      float& y = o.y[i * o.y_pitch + n + j];
      const float value = o.scale * simd::sum(sums[i][j]);
      y = o.accumulate ? y + value : value;
    }
}

template <int kRows>
void gemv_rows(const Nvfp4Operands& o, int64_t n) {
  constexpr int kCols = kRows <= 2 ? 4 : 2;
  const int64_t row_bytes = o.blocks * (kNvfp4Block / 2 + 1);
  parallel_for(n, gemv_grain(row_bytes), [&](int64_t begin, int64_t end) {
    int64_t at = begin;
    for (; at + kCols <= end; at += kCols) tile<kRows, kCols>(o, at);
    for (; at < end; ++at) tile<kRows, 1>(o, at);
  });
}

}  // namespace

void gemv_nvfp4(const Nvfp4Gemv& a) {
  const Nvfp4Operands o{.y = a.y.ptr<float>(),
                        .x = a.x.ptr<uint8_t>(),
                        .w = a.w.ptr<uint8_t>(),
                        .x_scales = a.x_scales.ptr<f8e4m3>(),
                        .w_scales = a.w_scales.ptr<f8e4m3>(),
                        .y_pitch = a.y.pitch(),
                        .x_pitch = a.x.pitch(),
                        .w_pitch = a.w.pitch(),
                        .x_scales_pitch = a.x_scales.pitch(),
                        .w_scales_pitch = a.w_scales.pitch(),
                        .blocks = a.w_scales.dim(1),
                        .scale = a.scale,
                        .accumulate = a.accumulate};
  const int64_t n = a.w.dim(0);
  with_gemv_rows("gemv_nvfp4", a.x, [&](auto rows) { gemv_rows<decltype(rows)::value>(o, n); });
}

}  // namespace nestling::cpu
