#include "kernels/ops/linear.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/matmul.h"

namespace nestling::cpu {

namespace {

// Widened weights pass through a block this large: it stays in the caches until it is used.
constexpr int64_t kWidenBytes = int64_t{8} << 20;
constexpr int64_t kWidenMultiple = 64;

int64_t widen_block(int64_t extent, int64_t other) {
  const int64_t fit = kWidenBytes / static_cast<int64_t>(sizeof(float)) / other;
  return std::min(extent, std::max(fit / kWidenMultiple, int64_t{1}) * kWidenMultiple);
}

bool is_bf16(ConstView v) {
  return v.dtype() == DType::kBF16;
}

// out (+)= a op(b) (+ bias) with a f32 and b bf16, b widened in blocks of output columns.
// op(b) is b^T [N, K] when transpose, else b [K, N].
void widened_product(Context& ctx, View out, ConstView a, ConstView b, bool transpose,
                     ConstView bias, bool accumulate) {
  const int columns = transpose ? 0 : 1;  // the dim of b that runs over out's columns
  const int64_t n = out.dim(1);
  const int64_t step = widen_block(n, b.dim(1 - columns));
  for (int64_t begin = 0; begin < n; begin += step) {
    const Arena::Mark mark(ctx.scratch());
    const int64_t count = std::min(step, n - begin);
    const ConstView part = b.slice(columns, begin, count);
    const View wide = ctx.scratch().alloc(DType::kF32, {part.dim(0), part.dim(1)});
    convert(wide, part);
    const View target = out.slice(1, begin, count);
    const View c = is_bf16(out) ? ctx.scratch().alloc(DType::kF32, {out.dim(0), count}) : target;
    matmul(ctx, {.c = c,
                 .a = a,
                 .b = wide,
                 .bias = bias ? bias.slice(0, begin, count) : ConstView(),
                 .transpose_b = transpose,
                 .accumulate = accumulate});
    if (is_bf16(out)) convert(target, c);
  }
}

void forward_few(Context& ctx, const LinearForward& a) {
  const Arena::Mark mark(ctx.scratch());
  const ConstView x = is_bf16(a.w) ? ConstView(rounded_copy(ctx, a.x)) : a.x;
  gemv({.y = a.y, .x = x, .w = a.w, .bias = a.bias, .accumulate = a.accumulate});
}

template <class T>
void add_rows(float* sum, ConstView rows, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < rows.dim(0); ++t) {
    const T* row = rows.ptr<T>() + t * rows.stride(0);
    for (int64_t n = begin; n < end; ++n) sum[n] += static_cast<float>(row[n]);
  }
}

// Every column is summed in token order, whatever the threads.
void add_dbias(View dbias, ConstView dy) {
  constexpr int64_t kColumns = 64;
  auto* sum = dbias.ptr<float>();
  parallel_for(dy.dim(1), kColumns, [&](int64_t begin, int64_t end) {
    is_bf16(dy) ? add_rows<bf16>(sum, dy, begin, end) : add_rows<float>(sum, dy, begin, end);
  });
}

}  // namespace

void linear_forward(Context& ctx, const LinearForward& a, Bf16Path path) {
  if (a.x.dim(0) == 0) return;
  if (a.x.dim(0) <= kGemvRows) return forward_few(ctx, a);
  const Arena::Mark mark(ctx.scratch());
  if (is_bf16(a.w) && path == Bf16Path::kWidened)
    return widened_product(ctx, a.y, rounded_copy(ctx, a.x), a.w, true, a.bias, a.accumulate);
  const bool round = is_bf16(a.w) && !is_bf16(a.x);
  matmul(ctx, {.c = a.y,
               .a = round ? ConstView(bf16_copy(ctx, a.x)) : a.x,
               .b = a.w,
               .bias = a.bias,
               .transpose_b = true,
               .accumulate = a.accumulate});
}

void linear_backward(Context& ctx, const LinearBackward& a, Bf16Path path) {
  if (a.dy.dim(0) == 0) {
    if (a.dw && !a.accumulate_dw) fill_zero(a.dw);
    return;
  }
  if (a.dbias) add_dbias(a.dbias, a.dy);
  const Arena::Mark mark(ctx.scratch());
  const bool widened = is_bf16(a.w) && path == Bf16Path::kWidened;
  const auto operand = [&](ConstView v) {
    if (widened) return ConstView(rounded_copy(ctx, v));
    return is_bf16(a.w) && !is_bf16(v) ? ConstView(bf16_copy(ctx, v)) : v;
  };
  const ConstView dy = a.dx || a.dw ? operand(a.dy) : a.dy;
  if (a.dx && widened)
    widened_product(ctx, a.dx, dy, a.w, false, {}, a.accumulate_dx);
  else if (a.dx)
    matmul(ctx, {.c = a.dx, .a = dy, .b = a.w, .accumulate = a.accumulate_dx});
  if (a.dw)
    matmul(ctx, {.c = a.dw,
                 .a = dy,
                 .b = operand(a.x),
                 .transpose_a = true,
                 .accumulate = a.accumulate_dw});
}

void run(Context& ctx, const LinearForward& a) {
  linear_forward(ctx, a, bf16_path());
}

void run(Context& ctx, const LinearBackward& a) {
  linear_backward(ctx, a, bf16_path());
}

}  // namespace nestling::cpu
