#include "kernels/cpu/widened_product.h"

#include "kernels/cpu/matmul.h"

namespace nestling::cpu {

namespace {

// Weights are widened in blocks this large, as those of linear are.
constexpr int64_t kWidenBytes = int64_t{8} << 20;
constexpr int64_t kWidenMultiple = 64;

void scale_sums(View y, ConstView sums, float scale, bool accumulate) {
  each_row(y, [&](int64_t t) {
    const float* from = sums.ptr<float>() + t * sums.pitch();
    float* to = y.ptr<float>() + t * y.pitch();
    for (int64_t i = 0; i < y.dim(1); ++i)
      to[i] = accumulate ? to[i] + scale * from[i] : scale * from[i];
  });
}

}  // namespace

void widened_product(Context& ctx, const WidenedProduct& p) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t n = p.y.dim(1);
  const int64_t k = p.x.dim(1);
  const int64_t fit = kWidenBytes / static_cast<int64_t>(sizeof(float)) / k / kWidenMultiple;
  const int64_t step = std::min(n, std::max(fit, int64_t{1}) * kWidenMultiple);
  const View wide = ctx.scratch().alloc(DType::kF32, {step, k});
  const View sums = ctx.scratch().alloc(DType::kF32, {p.x.dim(0), step});
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin);
    const View w = wide.prefix(0, count);
    const View y = sums.prefix(1, count);
    p.widen(w, begin);
    matmul(ctx, {.c = y, .a = p.x, .b = w, .transpose_b = true});
    scale_sums(p.y.slice(1, begin, count), y, p.scale, p.accumulate);
  }
}

}  // namespace nestling::cpu
