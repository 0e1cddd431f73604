#include "kernels/ops/nvfp4_linear.h"

#include <array>
#include <bit>

#include "kernels/cpu/code_values.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/widened_product.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kBlockBytes = kNvfp4Block / 2;

// The values of both codes of every byte.
using Pairs = std::array<std::array<float, 2>, 256>;
const Pairs& pairs() {
  static const Pairs all = [] {
    Pairs p{};
    for (size_t byte = 0; byte < p.size(); ++byte)
      p[byte] = {e2m1_value(static_cast<uint8_t>(byte & 15)),
                 e2m1_value(static_cast<uint8_t>(byte >> 4))};
    return p;
  }();
  return all;
}

}  // namespace

void widen(View out, ConstView codes, ConstView scales) {
  const Pairs& values = pairs();
  each_row(out, [&](int64_t t) {
    const uint8_t* from = codes.ptr<uint8_t>() + t * codes.pitch();
    const f8e4m3* scale = scales.ptr<f8e4m3>() + t * scales.pitch();
    float* to = out.ptr<float>() + t * out.pitch();
    for (int64_t b = 0; b < scales.dim(1); ++b, from += kBlockBytes) {
      const auto s = static_cast<float>(scale[b]);
      for (int64_t j = 0; j < kBlockBytes; ++j)
        for (const float value : values[from[j]]) *to++ = s * value;
    }
  });
}

namespace {

// The largest size, NaN where a value is: as bits a NaN is larger than all numbers.
float largest_of(const float* x) {
  uint32_t most = 0;
  for (int64_t i = 0; i < kNvfp4Block; ++i)
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::bit_cast<float>(most);
}

f8e4m3 quantize_block(uint8_t* codes, const float* x, float tensor_scale) {
  const f8e4m3 scale = nvfp4_block_scale(largest_of(x), tensor_scale);
  const float step = static_cast<float>(scale) * tensor_scale;
  std::array<int32_t, kNvfp4Block> code;
  for (size_t i = 0; i < code.size(); ++i) code[i] = e2m1_code(x[i] / step);
  for (size_t j = 0; j < kBlockBytes; ++j)
    codes[j] = static_cast<uint8_t>(code[2 * j] | code[2 * j + 1] << 4);
  return scale;
}

}  // namespace

void run(Context& /*ctx*/, const Nvfp4Quantize& a) {
  each_row(a.x, [&](int64_t t) {
    const float* from = a.x.ptr<float>() + t * a.x.pitch();
    uint8_t* codes = a.codes.ptr<uint8_t>() + t * a.codes.pitch();
    f8e4m3* scales = a.scales.ptr<f8e4m3>() + t * a.scales.pitch();
    for (int64_t b = 0; b < a.scales.dim(1); ++b)
      scales[b] = quantize_block(codes + b * kBlockBytes, from + b * kNvfp4Block, a.scale);
  });
}

void run(Context& ctx, const Nvfp4Linear& a) {
  const int64_t t = a.x.dim(0);
  const int64_t k = a.x.dim(1);
  if (t == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const View codes = ctx.scratch().alloc(DType::kU8, {t, k / 2});
  const View scales = ctx.scratch().alloc(DType::kF8E4M3, {t, k / kNvfp4Block});
  run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
  if (t <= kGemvRows)
    return gemv_nvfp4({.y = a.y,
                       .x = codes,
                       .x_scales = scales,
                       .w = a.w.codes,
                       .w_scales = a.w.scales,
                       .scale = nvfp4_product_scale(a),
                       .accumulate = a.accumulate});
  const View x = ctx.scratch().alloc(DType::kF32, {t, k});
  widen(x, codes, scales);
  const auto rows = [&](View out, int64_t begin) {
    const int64_t count = out.dim(0);
    widen(out, a.w.codes.slice(0, begin, count), a.w.scales.slice(0, begin, count));
  };
  widened_product(ctx, {.y = a.y,
                        .x = x,
                        .scale = nvfp4_product_scale(a),
                        .accumulate = a.accumulate,
                        .widen = rows});
}

}  // namespace nestling::cpu
