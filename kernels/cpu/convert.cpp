#include "kernels/cpu/convert.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;

// The upper halves, rounded to nearest even, still in their upper place.
template <class V>
NESTLING_INLINE simd::Int<V> round_bits(V x) {
  using Int = simd::Int<V>;
  const Int u = reinterpret_cast<Int>(x);
  const Int rounded = u + 0x7fff + ((u >> 16) & 1);
  const Int nan = x != x;
  return ((rounded & ~nan) | ((u | 0x400000) & nan)) & static_cast<int32_t>(0xffff0000u);
}
template <class V>
NESTLING_INLINE void put(float* p, V x) {
  simd::store(p, x);
}
template <class V>
NESTLING_INLINE void put(bf16* p, V x) {
  const auto half = __builtin_convertvector(round_bits(x) >> 16, typename simd::Traits<V>::Half);
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

template <class V, bool kRounded, class Out, class In>
NESTLING_INLINE void convert_row(Out* out, const In* in, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t i = 0;
  for (; i + kN <= n; i += kN) {
    const V x = simd::load<V>(in + i);
    put(out + i, kRounded ? reinterpret_cast<V>(round_bits(x)) : x);
  }
  for (; i < n; ++i) {
    const auto x = static_cast<float>(in[i]);
    out[i] = kRounded ? static_cast<Out>(static_cast<float>(bf16(x))) : static_cast<Out>(x);
  }
}

template <class Out, class In>
struct Rows {
  Out* out;
  const In* in;
  int64_t out_pitch, in_pitch, cols;
};

template <class V, bool kRounded, class Out, class In>
NESTLING_INLINE void convert_rows(const Rows<Out, In>& r, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t)
    convert_row<V, kRounded>(r.out + t * r.out_pitch, r.in + t * r.in_pitch, r.cols);
}
template <bool kRounded, class Out, class In>
void rows_avx2(const Rows<Out, In>& r, int64_t begin, int64_t end) {
  convert_rows<simd::F8, kRounded>(r, begin, end);
}
template <bool kRounded, class Out, class In>
NESTLING_TARGET_AVX512 void rows_avx512(const Rows<Out, In>& r, int64_t begin, int64_t end) {
  convert_rows<simd::F16, kRounded>(r, begin, end);
}

template <bool kRounded, class Out, class In>
void convert_as(View out, ConstView in) {
  if (in.size() == 0) return;
  Rows<Out, In> r{.out = out.ptr<Out>(),
                  .in = in.ptr<In>(),
                  .out_pitch = 0,
                  .in_pitch = 0,
                  .cols = in.dim(in.rank() - 1)};
  auto* body =
      cpu_isa() >= CpuIsa::kAvx512 ? rows_avx512<kRounded, Out, In> : rows_avx2<kRounded, Out, In>;
  if (out.dense() && in.dense()) {  // one long row, cut between the threads
    parallel_for(in.size(), kElementsPerTask, [&](int64_t begin, int64_t end) {
      Rows<Out, In> part = r;
      part.out += begin;
      part.in += begin;
      part.cols = end - begin;
      body(part, 0, 1);
    });
    return;
  }
  r.out_pitch = out.pitch();
  r.in_pitch = in.pitch();
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / r.cols);
  parallel_for(in.rows(), grain, [&](int64_t begin, int64_t end) { body(r, begin, end); });
}

}  // namespace

void convert(View out, ConstView in) {
  const bool narrow = out.dtype() == DType::kBF16;
  if (in.dtype() == DType::kBF16)
    narrow ? convert_as<false, bf16, bf16>(out, in) : convert_as<false, float, bf16>(out, in);
  else
    narrow ? convert_as<false, bf16, float>(out, in) : convert_as<false, float, float>(out, in);
}

void convert_rounded(View out, ConstView in) {
  if (in.dtype() == DType::kBF16)
    convert_as<false, float, bf16>(out, in);
  else
    convert_as<true, float, float>(out, in);
}

View rounded_copy(Context& ctx, ConstView in) {
  const View out = ctx.scratch().alloc(DType::kF32, {in.rows(), in.dim(in.rank() - 1)});
  convert_rounded(out, in);
  return out;
}

View bf16_copy(Context& ctx, ConstView in) {
  const View out = ctx.scratch().alloc(DType::kBF16, {in.rows(), in.dim(in.rank() - 1)});
  convert(out, in);
  return out;
}

}  // namespace nestling::cpu
