#include "kernels/ops/fp8_linear.h"

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/cpu/matmul.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;
// Weights are widened in blocks this large, as those of linear are.
constexpr int64_t kWidenBytes = int64_t{8} << 20;
constexpr int64_t kWidenMultiple = 64;

// Calls row(t) for all rows of v, on all threads.
template <class Row>
void each_row(ConstView v, Row&& row) {
  const int64_t grain = std::max(int64_t{1}, kElementsPerTask / v.dim(v.rank() - 1));
  parallel_for(v.rows(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(t);
  });
}

void widen(View out, ConstView codes) {
  each_row(codes, [&](int64_t t) {
    const f8e4m3* from = codes.ptr<f8e4m3>() + t * codes.pitch();
    float* to = out.ptr<float>() + t * out.pitch();
    for (int64_t i = 0; i < codes.dim(1); ++i) to[i] = static_cast<float>(from[i]);
  });
}

// The values of code(x / scale), as f32.
void quantized(View out, ConstView x, float scale) {
  each_row(x, [&](int64_t t) {
    const float* from = x.ptr<float>() + t * x.pitch();
    float* to = out.ptr<float>() + t * out.pitch();
    for (int64_t i = 0; i < x.dim(1); ++i) to[i] = static_cast<float>(f8e4m3(from[i] / scale));
  });
}

void scale_sums(View y, ConstView sums, float scale, bool accumulate) {
  each_row(y, [&](int64_t t) {
    const float* from = sums.ptr<float>() + t * sums.pitch();
    float* to = y.ptr<float>() + t * y.pitch();
    for (int64_t i = 0; i < y.dim(1); ++i)
      to[i] = accumulate ? to[i] + scale * from[i] : scale * from[i];
  });
}

}  // namespace

void run(Context& ctx, const Fp8Linear& a) {
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const int64_t n = a.w.dim(0);
  const int64_t k = a.w.dim(1);
  const View x = ctx.scratch().alloc(DType::kF32, {a.x.dim(0), k});
  quantized(x, a.x, a.input_scale);
  const int64_t fit = kWidenBytes / static_cast<int64_t>(sizeof(float)) / k / kWidenMultiple;
  const int64_t step = std::min(n, std::max(fit, int64_t{1}) * kWidenMultiple);
  const View wide = ctx.scratch().alloc(DType::kF32, {step, k});
  const View sums = ctx.scratch().alloc(DType::kF32, {a.x.dim(0), step});
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin);
    const View w = wide.prefix(0, count);
    const View y = sums.prefix(1, count);
    widen(w, a.w.slice(0, begin, count));
    matmul(ctx, {.c = y, .a = x, .b = w, .transpose_b = true});
    scale_sums(a.y.slice(1, begin, count), y, fp8_product_scale(a), a.accumulate);
  }
}

void run(Context& /*ctx*/, const Fp8Quantize& a) {
  each_row(a.x, [&](int64_t t) {
    const float* from = a.x.ptr<float>() + t * a.x.pitch();
    f8e4m3* to = a.codes.ptr<f8e4m3>() + t * a.codes.pitch();
    for (int64_t i = 0; i < a.x.dim(a.x.rank() - 1); ++i) to[i] = f8e4m3(from[i] / a.scale);
  });
}

}  // namespace nestling::cpu
