#include "kernels/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <immintrin.h>

#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kBlock = kNormBlock;  // elements; 64 KiB of each of the operands

// Calls fn(tensor, begin, end) for element ranges of at most kBlock that cover all tensors, spread
// over the threads as one list, so that a thousand norm weights cost one fork.
// A block never spans two tensors; `first` [tensors + 1] is the number of blocks before each.
template <class Fn>
void for_each_block(const int64_t* first, int64_t tensors, const int64_t* sizes, Fn&& fn) {
  parallel_for(first[tensors], 1, [&](int64_t begin, int64_t end) {
    int64_t i = std::upper_bound(first, first + tensors + 1, begin) - first - 1;
    for (int64_t b = begin; b < end; ++b) {
      while (b >= first[i + 1]) ++i;
      const int64_t from = (b - first[i]) * kBlock;
      fn(i, b, from, std::min(sizes[i], from + kBlock));
    }
  });
}

struct BlockList {
  int64_t* first;
  int64_t* sizes;
};
template <class Size>
BlockList list_blocks(Arena& arena, int64_t tensors, Size size) {
  const BlockList list{.first = arena.alloc(DType::kI64, {tensors + 1}).ptr<int64_t>(),
                       .sizes = arena.alloc(DType::kI64, {tensors + 1}).ptr<int64_t>()};
  list.first[0] = 0;
  for (int64_t i = 0; i < tensors; ++i) {
    list.sizes[i] = size(i);
    list.first[i + 1] = list.first[i] + (list.sizes[i] + kBlock - 1) / kBlock;
  }
  return list;
}

// Correctly rounded, as std::sqrt. Two 256-bit roots run as fast as one of 512 bits.
NESTLING_INLINE simd::F8 root(simd::F8 x) {
  return _mm256_sqrt_ps(x);
}
NESTLING_INLINE simd::F16 root(simd::F16 x) {
  simd::F8 half[2];
  std::memcpy(half, &x, sizeof x);
  half[0] = root(half[0]);
  half[1] = root(half[1]);
  std::memcpy(&x, half, sizeof x);
  return x;
}

// Round to nearest even, NaN stays NaN: as bf16(float).
template <class V>
NESTLING_INLINE typename simd::Traits<V>::Half to_bf16(V x) {
  using I = simd::Int<V>;
  const I u = reinterpret_cast<I>(x);
  const I odd = (u >> 16) & 1;
  const I rounded = (u + 0x7fff + odd) >> 16;
  const I nan = x != x;
  const I bits = (((u >> 16) | 0x40) & nan) | (rounded & ~nan);
  return __builtin_convertvector(bits & 0xffff, typename simd::Traits<V>::Half);
}

struct Step {
  float* w;
  float* m;
  float* v;
  const float* g;
  bf16* low;  // nullptr: none
  float beta1, beta2, eps, grad_scale;
  float lr, decay;
  float correct1, correct2;  // 1 / (1 - beta^t)
};

template <class V, bool full>
NESTLING_INLINE void step_vector(const Step& s, int64_t i, int64_t n) {
  const V g = load_some<V, full>(s.g + i, n) * s.grad_scale;
  const V m = load_some<V, full>(s.m + i, n) * s.beta1 + g * (1.0f - s.beta1);
  const V v = load_some<V, full>(s.v + i, n) * s.beta2 + g * g * (1.0f - s.beta2);
  const V w = load_some<V, full>(s.w + i, n);
  const V step = m * s.correct1 / (root(v * s.correct2) + s.eps) + w * s.decay;
  const V stepped = w - step * s.lr;
  store_some<V, full>(s.m + i, m, n);
  store_some<V, full>(s.v + i, v, n);
  store_some<V, full>(s.w + i, stepped, n);
  if (s.low == nullptr) return;
  const auto low = to_bf16(stepped);
  std::memcpy(static_cast<void*>(s.low + i), &low,
              full ? sizeof low : static_cast<size_t>(n) * sizeof(bf16));
}

template <class V>
NESTLING_INLINE void step_range(const Step& s, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t i = 0;
  for (; i + kN <= n; i += kN) step_vector<V, true>(s, i, kN);
  if (i < n) step_vector<V, false>(s, i, n - i);
}
void step_avx2(const Step& s, int64_t n) {
  step_range<simd::F8>(s, n);
}
NESTLING_TARGET_AVX512 void step_avx512(const Step& s, int64_t n) {
  step_range<simd::F16>(s, n);
}

// s at the first element of the tensor: the elements [begin, end), row by row where `low` has gaps.
void step_elements(const AdamWTensor& t, const Step& s, int64_t begin, int64_t end) {
  auto* run_range = cpu_isa() >= CpuIsa::kAvx512 ? step_avx512 : step_avx2;
  const int64_t cols = t.low && !t.low.dense() ? t.low.dim(t.low.rank() - 1) : t.master.size();
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / cols;
    const int64_t stop = std::min(end, (row + 1) * cols);
    Step part = s;
    part.w += at;
    part.m += at;
    part.v += at;
    part.g += at;
    if (t.low) part.low += cols == t.master.size() ? at : row * t.low.pitch() + at - row * cols;
    run_range(part, stop - at);
    at = stop;
  }
}

// Sums of squares in f64, four vectors at a time. Written on intrinsics: GCC 12 makes scalar code
// of the generic conversion from float to double. (The zero mask of all ones is the plain conversion:
// GCC 12 takes the plain intrinsic's undefined operand for a mistake of ours.)
double square_sum_avx2(const float* x, int64_t n) {
  __m256d sums[4] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t u = 0; u < 4; ++u) {
      const __m256d wide = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * u));
      sums[u] = _mm256_fmadd_pd(wide, wide, sums[u]);
    }
  const __m256d all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = (all[0] + all[1]) + (all[2] + all[3]);
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}
NESTLING_TARGET_AVX512 double square_sum_avx512(const float* x, int64_t n) {
  __m512d sums[4] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int64_t u = 0; u < 4; ++u) {
      const __m512d wide = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(x + i + 8 * u));
      sums[u] = _mm512_fmadd_pd(wide, wide, sums[u]);
    }
  const __m512d all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0;
  for (int lane = 0; lane < 8; ++lane) sum += all[lane];
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

double square_sum_elements(ConstView g, int64_t begin, int64_t end) {
  auto* range = cpu_isa() >= CpuIsa::kAvx512 ? square_sum_avx512 : square_sum_avx2;
  const auto* x = g.ptr<float>();
  if (g.dense()) return range(x + begin, end - begin);
  const int64_t cols = g.dim(g.rank() - 1);
  double sum = 0;
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / cols;
    const int64_t stop = std::min(end, (row + 1) * cols);
    sum += range(x + row * g.pitch() + at - row * cols, stop - at);
    at = stop;
  }
  return sum;
}

}  // namespace

void run(Context& ctx, const AdamWStep& a) {
  const Arena::Mark mark(ctx.scratch());
  const auto tensors = static_cast<int64_t>(a.tensors.size());
  const auto tensor = [&](int64_t i) -> const AdamWTensor& {
    return a.tensors[static_cast<size_t>(i)];
  };
  const BlockList blocks =
      list_blocks(ctx.scratch(), tensors, [&](int64_t i) { return tensor(i).master.size(); });
  const auto t = static_cast<double>(a.step);
  const auto correct1 = static_cast<float>(1.0 / (1.0 - std::pow(double{a.beta1}, t)));
  const auto correct2 = static_cast<float>(1.0 / (1.0 - std::pow(double{a.beta2}, t)));
  for_each_block(blocks.first, tensors, blocks.sizes,
                 [&](int64_t i, int64_t, int64_t begin, int64_t end) {
                   const AdamWTensor& x = tensor(i);
                   const Step step{.w = x.master.ptr<float>(),
                                   .m = x.m.ptr<float>(),
                                   .v = x.v.ptr<float>(),
                                   .g = x.grad.ptr<float>(),
                                   .low = x.low ? x.low.ptr<bf16>() : nullptr,
                                   .beta1 = a.beta1,
                                   .beta2 = a.beta2,
                                   .eps = a.eps,
                                   .grad_scale = a.grad_scale,
                                   .lr = x.lr,
                                   .decay = x.decay,
                                   .correct1 = correct1,
                                   .correct2 = correct2};
                   step_elements(x, step, begin, end);
                 });
}

// One f64 sum a block, whichever thread did it.
void run(Context& ctx, const SquareSums& a) {
  const Arena::Mark mark(ctx.scratch());
  const auto tensors = std::ssize(a.grads);
  const BlockList blocks = list_blocks(
      ctx.scratch(), tensors, [&](int64_t i) { return a.grads[static_cast<size_t>(i)].size(); });
  auto* sums = a.sums.ptr<double>();
  for_each_block(blocks.first, tensors, blocks.sizes,
                 [&](int64_t i, int64_t b, int64_t begin, int64_t end) {
                   sums[b] = square_sum_elements(a.grads[static_cast<size_t>(i)], begin, end);
                 });
}

void run(Context&, const NormOfSums& a) {
  const auto* sums = a.sums.ptr<double>();
  double total = 0;
  for (int64_t b = 0; b < a.sums.size(); ++b) total += sums[b];
  *a.norm.ptr<double>() = std::sqrt(total);
}

}  // namespace nestling::cpu
