#include "kernels/ops/fp8_linear.h"

#include <array>

#include "kernels/cpu/code_values.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/widened_product.h"

namespace nestling::cpu {

namespace {

// The values of all codes: a read is faster than the arithmetic.
using CodeValues = std::array<float, 256>;
const CodeValues& code_values() {
  static const CodeValues all = [] {
    CodeValues values{};
    f8e4m3 code;
    for (size_t bits = 0; bits < values.size(); ++bits) {
      code.bits = static_cast<uint8_t>(bits);
      values[bits] = static_cast<float>(code);
    }
    return values;
  }();
  return all;
}

}  // namespace

void widen(View out, ConstView codes) {
  const CodeValues& values = code_values();
  const int64_t k = codes.dim(1);
  each_row(codes, [&](int64_t t) {
    const f8e4m3* from = codes.ptr<f8e4m3>() + t * codes.pitch();
    float* to = out.ptr<float>() + t * out.pitch();
    for (int64_t i = 0; i < k; ++i) to[i] = values[from[i].bits];
  });
}

void quantized(View out, ConstView x, float scale) {
  each_row(x, [&](int64_t t) {
    const float* from = x.ptr<float>() + t * x.pitch();
    float* to = out.ptr<float>() + t * out.pitch();
    for (int64_t i = 0; i < x.dim(1); ++i) to[i] = static_cast<float>(f8e4m3(from[i] / scale));
  });
}

void run(Context& ctx, const Fp8Linear& a) {
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const View x = ctx.scratch().alloc(DType::kF32, {a.x.dim(0), a.x.dim(1)});
  quantized(x, a.x, a.input_scale);
  if (a.x.dim(0) <= kGemvRows)
    return gemv(
        {.y = a.y, .x = x, .w = a.w, .scale = fp8_product_scale(a), .accumulate = a.accumulate});
  const auto rows = [&](View out, int64_t begin) { widen(out, a.w.slice(0, begin, out.dim(0))); };
  widened_product(
      ctx,
      {.y = a.y, .x = x, .scale = fp8_product_scale(a), .accumulate = a.accumulate, .widen = rows});
}

void run(Context& /*ctx*/, const Fp8Quantize& a) {
  each_row(a.x, [&](int64_t t) {
    const float* from = a.x.ptr<float>() + t * a.x.pitch();
    f8e4m3* to = a.codes.ptr<f8e4m3>() + t * a.codes.pitch();
    for (int64_t i = 0; i < a.x.dim(a.x.rank() - 1); ++i) to[i] = f8e4m3(from[i] / a.scale);
  });
}

}  // namespace nestling::cpu
