// expert_products.cpp - one product an expert, over as many rows as it was given.
//
// f32 and widened bf16: matmul_any_rows on one thread each, inside a parallel_for over the sorted
// rows (forward, dx) or over the outputs N (dw): every thread does the same number of FLOPs however
// uneven the experts, and threads never wait for each other in between. Native bf16: matmul with
// all threads, the run-time extent cut in a few sizes so that primitives are not made for each.
#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/expert_rows.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/gemv.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kColumnsPerTask = 32;

// out = a w^T (transpose) or a w, w [N, K] f32 or bf16, on the calling thread.
void one_expert(View out, ConstView a, ConstView w, bool transpose, View wide) {
  if (transpose && a.dim(0) <= kGemvRows) return gemv({.y = out, .x = a, .w = w});
  if (w.dtype() == DType::kF32)
    return matmul_any_rows({.c = out, .a = a, .b = w, .transpose_b = transpose});
  const int columns = transpose ? 0 : 1;  // the dim of w that runs over out's columns
  const int64_t n = out.dim(1);
  const int64_t other = w.dim(1 - columns);
  const int64_t step = wide.dim(0) / other;
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin);
    const ConstView part = w.slice(columns, begin, count);
    const View block = wide.prefix(0, part.size()).reshape({part.dim(0), part.dim(1)});
    convert(block, part);
    matmul_any_rows(
        {.c = out.slice(1, begin, count), .a = a, .b = block, .transpose_b = transpose});
  }
}

// out[rows of e] = a[rows of e] op(w[e]); a f32.
void grouped(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets, bool transpose) {
  const Arena::Mark mark(ctx.scratch());
  const auto* at = offsets.ptr<int32_t>();
  const int64_t experts = w.dim(0);
  View wide;  // [threads, block] f32
  if (w.dtype() == DType::kBF16) {
    const int64_t other = w.dim(transpose ? 2 : 1);
    wide = ctx.scratch().alloc(DType::kF32, {thread_count(), widened_at_once(other) * other});
  }
  parallel_for(a.dim(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    const View own = wide ? wide.slice(0, thread_index(), 1).reshape({wide.dim(1)}) : View();
    int64_t e = std::upper_bound(at, at + experts + 1, static_cast<int32_t>(begin)) - at - 1;
    for (; e < experts && at[e] < end; ++e) {
      const int64_t from = std::max<int64_t>(begin, at[e]);
      const int64_t count = std::min<int64_t>(end, at[e + 1]) - from;
      if (count <= 0) continue;
      one_expert(out.slice(0, from, count), a.slice(0, from, count), expert_of(w, e), transpose,
                 own);
    }
  });
}

// dw[e] (+)= dy[rows of e]^T x[rows of e], both f32; an expert without rows has dw zero, or left alone.
void grouped_dw(View dw, ConstView dy, ConstView x, ConstView offsets, bool accumulate) {
  const auto* at = offsets.ptr<int32_t>();
  parallel_for(dw.dim(1), kColumnsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t e = 0; e < dw.dim(0); ++e) {
      const int64_t count = at[e + 1] - at[e];
      const View to = expert_of(dw, e).slice(0, begin, end - begin);
      if (count == 0) {
        if (!accumulate) fill_zero(to);
        continue;
      }
      matmul_any_rows({.c = to,
                       .a = dy.slice(0, at[e], count).slice(1, begin, end - begin),
                       .b = x.slice(0, at[e], count),
                       .transpose_a = true,
                       .accumulate = accumulate});
    }
  });
}

// Calls body(first row, rows) with few distinct numbers of rows: multiples of 64 up to 512, and
// what is left below 64.
template <class Body>
void in_chunks(int64_t begin, int64_t end, Body&& body) {
  constexpr int64_t kMultiple = 64;
  constexpr int64_t kMost = 512;
  while (begin < end) {
    const int64_t left = end - begin;
    const int64_t count = left < kMultiple ? left : std::min(left / kMultiple * kMultiple, kMost);
    body(begin, count);
    begin += count;
  }
}

void native(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets, bool transpose) {
  const auto* at = offsets.ptr<int32_t>();
  for (int64_t e = 0; e < w.dim(0); ++e)
    in_chunks(at[e], at[e + 1], [&](int64_t begin, int64_t count) {
      matmul(ctx, {.c = out.slice(0, begin, count),
                   .a = a.slice(0, begin, count),
                   .b = expert_of(w, e),
                   .transpose_b = transpose});
    });
}

void native_dw(Context& ctx, View dw, ConstView dy, ConstView x, ConstView offsets,
               bool accumulate) {
  const auto* at = offsets.ptr<int32_t>();
  for (int64_t e = 0; e < dw.dim(0); ++e) {
    if (at[e] == at[e + 1] && !accumulate) fill_zero(expert_of(dw, e));
    in_chunks(at[e], at[e + 1], [&](int64_t begin, int64_t count) {
      matmul(ctx, {.c = expert_of(dw, e),
                   .a = dy.slice(0, begin, count),
                   .b = x.slice(0, begin, count),
                   .transpose_a = true,
                   .accumulate = accumulate || begin > at[e]});
    });
  }
}

}  // namespace

void expert_linear_forward(Context& ctx, const ExpertLinearForward& a, Bf16Path path) {
  check_offsets("expert_linear_forward", a.offsets, a.x.dim(0));
  const Arena::Mark mark(ctx.scratch());
  if (a.w.dtype() == DType::kF32) return grouped(ctx, a.y, a.x, a.w, a.offsets, true);
  if (path == Bf16Path::kNative) return native(ctx, a.y, bf16_copy(ctx, a.x), a.w, a.offsets, true);
  grouped(ctx, a.y, rounded_copy(ctx, a.x), a.w, a.offsets, true);
}

void expert_linear_backward(Context& ctx, const ExpertLinearBackward& a, Bf16Path path) {
  check_offsets("expert_linear_backward", a.offsets, a.x.dim(0));
  const Arena::Mark mark(ctx.scratch());
  if (a.w.dtype() == DType::kBF16 && path == Bf16Path::kNative) {
    const View dy = bf16_copy(ctx, a.dy);
    native(ctx, a.dx, dy, a.w, a.offsets, false);
    if (a.dw) native_dw(ctx, a.dw, dy, bf16_copy(ctx, a.x), a.offsets, a.accumulate_dw);
    return;
  }
  const bool round = a.w.dtype() == DType::kBF16;
  const ConstView dy = round ? ConstView(rounded_copy(ctx, a.dy)) : a.dy;
  grouped(ctx, a.dx, dy, a.w, a.offsets, false);
  if (a.dw)
    grouped_dw(a.dw, dy, round ? ConstView(rounded_copy(ctx, a.x)) : a.x, a.offsets,
               a.accumulate_dw);
}

void run(Context& ctx, const ExpertLinearForward& a) {
  expert_linear_forward(ctx, a, bf16_path());
}

void run(Context& ctx, const ExpertLinearBackward& a) {
  expert_linear_backward(ctx, a, bf16_path());
}

}  // namespace nestling::cpu
