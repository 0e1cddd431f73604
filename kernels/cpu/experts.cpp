// experts.cpp - tokens to experts and back: sort, gather, combine and their gradients.
#include "kernels/cpu/experts.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;

int64_t rows_per_task(int64_t width) {
  return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(width, 1));
}

// position[pair] = row: the inverse of order.
const int32_t* invert(Context& ctx, ConstView order) {
  const int64_t n = order.dim(0);
  auto* position = ctx.scratch().alloc(DType::kI32, {n}).ptr<int32_t>();
  const auto* pair = order.ptr<int32_t>();
  for (int64_t r = 0; r < n; ++r) position[pair[r]] = static_cast<int32_t>(r);
  return position;
}

// y[t] (+)= sum over j in order of weight[t, j] * rows[position[t * k + j]]; weight 1 where absent.
struct Combine {
  float* y;
  const float* rows;
  const float* weight;
  const int32_t* position;
  int64_t y_pitch, rows_pitch, weight_pitch, k, width;
  bool accumulate;
};

template <class V, bool kWeighted>
NESTLING_INLINE void combine_tokens(const Combine& c, int64_t begin, int64_t end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t t = begin; t < end; ++t) {
    float* y = c.y + t * c.y_pitch;
    const int32_t* position = c.position + t * c.k;
    const float* weight = c.weight + t * c.weight_pitch;
    for (int64_t d = 0; d < c.width; d += kN) {
      const int64_t n = std::min(kN, c.width - d);
      const bool whole = n == kN;
      V sum{};
      if (c.accumulate) sum = whole ? simd::load<V>(y + d) : simd::load_n<V>(y + d, n);
      for (int64_t j = 0; j < c.k; ++j) {
        const float* row = c.rows + position[j] * c.rows_pitch + d;
        const V x = whole ? simd::load<V>(row) : simd::load_n<V>(row, n);
        sum += kWeighted ? x * weight[j] : x;
      }
      whole ? simd::store(y + d, sum) : simd::store_n(y + d, sum, n);
    }
  }
}
template <bool kWeighted>
void combine_avx2(const Combine& c, int64_t begin, int64_t end) {
  combine_tokens<simd::F8, kWeighted>(c, begin, end);
}
template <bool kWeighted>
NESTLING_TARGET_AVX512 void combine_avx512(const Combine& c, int64_t begin, int64_t end) {
  combine_tokens<simd::F16, kWeighted>(c, begin, end);
}

template <bool kWeighted>
void combine(View y, ConstView rows, ConstView weight, const int32_t* position, bool accumulate) {
  const int64_t tokens = y.dim(0);
  if (tokens == 0) return;
  const Combine c{.y = y.ptr<float>(),
                  .rows = rows.ptr<float>(),
                  .weight = kWeighted ? weight.ptr<float>() : nullptr,
                  .position = position,
                  .y_pitch = y.pitch(),
                  .rows_pitch = rows.pitch(),
                  .weight_pitch = kWeighted ? weight.pitch() : 0,
                  .k = rows.dim(0) / tokens,
                  .width = y.dim(1),
                  .accumulate = accumulate};
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? combine_avx512<kWeighted> : combine_avx2<kWeighted>;
  parallel_for(tokens, rows_per_task(c.k * c.width),
               [&](int64_t begin, int64_t end) { body(c, begin, end); });
}

// drows[r] = weight * dy[t]; dweight = dy[t] . rows[r].
struct CombineBackward {
  float* drows;
  float* dweight;
  const float* dy;
  const float* rows;
  const float* weight;
  const int32_t* order;
  int64_t drows_pitch, dweight_pitch, dy_pitch, rows_pitch, weight_pitch, k, width;
};

template <class V>
NESTLING_INLINE void combine_backward_rows(const CombineBackward& c, int64_t begin, int64_t end) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t t = c.order[r] / c.k;
    const int64_t j = c.order[r] % c.k;
    const float* dy = c.dy + t * c.dy_pitch;
    const float* row = c.rows + r * c.rows_pitch;
    float* drow = c.drows + r * c.drows_pitch;
    const float weight = c.weight[t * c.weight_pitch + j];
    V dot{};
    int64_t d = 0;
    for (; d + kN <= c.width; d += kN) {
      const V g = simd::load<V>(dy + d);
      dot += g * simd::load<V>(row + d);
      simd::store(drow + d, g * weight);
    }
    if (d < c.width) {
      const V g = simd::load_n<V>(dy + d, c.width - d);
      dot += g * simd::load_n<V>(row + d, c.width - d);
      simd::store_n(drow + d, g * weight, c.width - d);
    }
    c.dweight[t * c.dweight_pitch + j] = simd::sum(dot);
  }
}
void combine_backward_avx2(const CombineBackward& c, int64_t begin, int64_t end) {
  combine_backward_rows<simd::F8>(c, begin, end);
}
NESTLING_TARGET_AVX512 void combine_backward_avx512(const CombineBackward& c, int64_t begin,
                                                    int64_t end) {
  combine_backward_rows<simd::F16>(c, begin, end);
}

}  // namespace

// A counting sort: stable, so rows of one expert keep the order of their tokens.
void run(Context& ctx, const ExpertSort& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t experts = a.offsets.dim(0) - 1;
  const int64_t tokens = a.index.dim(0);
  const int64_t k = a.index.dim(1);
  const auto* index = a.index.ptr<int32_t>();
  auto* offsets = a.offsets.ptr<int32_t>();
  auto* order = a.order.ptr<int32_t>();
  const int64_t pitch = a.index.pitch();
  std::fill_n(offsets, experts + 1, 0);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = index[t * pitch + j];
      NESTLING_CHECK(e >= 0 && e < experts, "expert_sort: index[", t, ",", j, "] is ", e,
                     ", needs [0, ", experts, ")");
      ++offsets[e + 1];
    }
  for (int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  auto* next = ctx.scratch().alloc(DType::kI32, {experts}).ptr<int32_t>();
  std::copy_n(offsets, experts, next);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < k; ++j)
      order[next[index[t * pitch + j]]++] = static_cast<int32_t>(t * k + j);
}

void run(Context&, const ExpertGather& a) {
  const int64_t n = a.rows.dim(0);
  if (n == 0) return;
  const int64_t k = n / a.x.dim(0);
  const int64_t width = a.x.dim(1);
  auto* rows = a.rows.ptr<float>();
  const auto* x = a.x.ptr<float>();
  const auto* order = a.order.ptr<int32_t>();
  const int64_t rows_pitch = a.rows.pitch();
  const int64_t x_pitch = a.x.pitch();
  parallel_for(n, rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::copy_n(x + order[r] / k * x_pitch, width, rows + r * rows_pitch);
  });
}

void run(Context& ctx, const ExpertCombine& a) {
  const Arena::Mark mark(ctx.scratch());
  combine<true>(a.y, a.rows, a.weight, invert(ctx, a.order), a.accumulate);
}

void run(Context& ctx, const ExpertGatherBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  combine<false>(a.dx, a.drows, {}, invert(ctx, a.order), a.accumulate);
}

void run(Context&, const ExpertCombineBackward& a) {
  const int64_t n = a.rows.dim(0);
  if (n == 0) return;
  const CombineBackward c{.drows = a.drows.ptr<float>(),
                          .dweight = a.dweight.ptr<float>(),
                          .dy = a.dy.ptr<float>(),
                          .rows = a.rows.ptr<float>(),
                          .weight = a.weight.ptr<float>(),
                          .order = a.order.ptr<int32_t>(),
                          .drows_pitch = a.drows.pitch(),
                          .dweight_pitch = a.dweight.pitch(),
                          .dy_pitch = a.dy.pitch(),
                          .rows_pitch = a.rows.pitch(),
                          .weight_pitch = a.weight.pitch(),
                          .k = a.weight.dim(1),
                          .width = a.rows.dim(1)};
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? combine_backward_avx512 : combine_backward_avx2;
  parallel_for(n, rows_per_task(c.width), [&](int64_t begin, int64_t end) { body(c, begin, end); });
}

}  // namespace nestling::cpu
