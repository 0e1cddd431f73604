// Gradients of products of codes: those of y = v_x v_w^T in double, of what the codes stand for.
#include "model/layers/product.h"

#include <gtest/gtest.h>

#include "kernels/ops/dequantize.h"
#include "kernels/ops/largest.h"
#include "tests/support/device.h"
#include "tests/support/expert_codes.h"
#include "tests/support/soil.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

constexpr float kInputScale = 0.0013f;

Mat<double> scaled(Mat<double> m, float by) {
  for (auto& x : m.v) x *= double{by};
  return m;
}
Mat<double> times(const Mat<double>& a, const Mat<double>& b) {
  Mat<double> c(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t k = 0; k < a.cols; ++k)
      for (int64_t j = 0; j < b.cols; ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}
Mat<double> transposed(const Mat<double>& a) {
  Mat<double> t(a.cols, a.rows);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.cols; ++j) t(j, i) = a(i, j);
  return t;
}
void add(Mat<double>& to, const Mat<double>& from) {
  for (int64_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

class ProductOn : public ::testing::TestWithParam<std::tuple<Kind, CodeFormat>> {
 protected:
  static constexpr int64_t kRows = 37, kN = 24, kK = 48;

  // Inputs, some beyond the largest code, and an expert's weights.
  Mat<double> inputs(Rng& rng) const {
    const auto m = random_mat(rng, kRows, kK, double{kInputScale} * largest() / 2);
    return kind().half ? rounded(m) : m;
  }
  ExpertCodes weights(Rng& rng, std::vector<int> offsets) const {
    ExpertCodes w{.format = std::get<1>(GetParam()),
                  .fp8 = {},
                  .nvfp4 = {},
                  .scales = {},
                  .offsets = std::move(offsets)};
    for (size_t e = 0; e + 1 < w.offsets.size(); ++e) {
      const float scale = 0.00021f * static_cast<float>(e + 1);
      w.add(random_mat(rng, kN, kK, double{scale} * largest() / 3), scale);
    }
    return w;
  }
  static Kind kind() { return std::get<0>(GetParam()); }
  static double largest() { return std::get<1>(GetParam()) == CodeFormat::kFp8 ? 448 : 2688; }
  // Of sums of n products whose operands are f32, or with bf16 activations rounded to bf16 all three.
  static double bound(int64_t n) {
    return 4 * std::sqrt(static_cast<double>(n)) * kEps32 + (kind().half ? 2.5 * kEpsHalf : 0);
  }
};

Weight weight_of(const QuantizedExpertLinear& a) {
  Weight w(a.codes);
  w.block_scales = a.block_scales;
  w.expert_scales = a.scales;
  w.input_scale = kInputScale;
  return w;
}
// The first expert as a matrix.
Weight matrix_of(const QuantizedExpertLinear& a, float scale) {
  const auto first = [](ConstView v) {
    return v ? v.slice(0, 0, 1).reshape({v.dim(1), v.dim(2)}) : v;
  };
  Weight w(first(a.codes));
  w.block_scales = first(a.block_scales);
  w.scale = scale;
  w.input_scale = kInputScale;
  return w;
}

TEST_P(ProductOn, GradientsAreThoseOfTheValuesOfCodes) {
  NESTLING_SKIP_WITHOUT(kind().device, Dequantize);
  Rng rng(7);
  const ExpertCodes codes = weights(rng, {0, kRows});
  const auto x = inputs(rng), before = random_mat(rng, kN, kK);
  const auto dy = random_mat(rng, kRows, kN);
  Context ctx(kind().device);
  soil(ctx);
  ExpertStack stack(kind().device, codes, 16);
  Guarded x32(kind().device, x), gdy(kind().device, dy), dw(kind().device, before);
  GuardedHalf x16(kind().device, x);
  Guarded dx(kind().device, kRows, kK);
  product_backward(ctx, {.dx = dx.view(),
                         .dw = dw.view(),
                         .dy = gdy.view(),
                         .x = kind().half ? x16.view() : x32.view(),
                         .w = matrix_of(stack.operands({}, {}, kInputScale), codes.scales[0])});
  ctx.synchronize();
  const auto w = scaled(codes.values(0), codes.scales[0]);
  const auto v = scaled(codes.values_of(x, kInputScale), kInputScale);
  expect_close("dx", dx.read(), times(dy, w), bound(kN));
  auto want = times(transposed(dy), v);
  const double size = norm(want);
  add(want, before);
  expect_close("dw", dw.read(), want, 0, bound(kRows) * size + kEps32 * norm(want));
  dx.expect_guards_intact("dx");
  dw.expect_guards_intact("dw");
}

// An expert without rows among them.
TEST_P(ProductOn, OfExpertsToo) {
  NESTLING_SKIP_WITHOUT(kind().device, Dequantize);
  Rng rng(11);
  const ExpertCodes codes = weights(rng, {0, 20, 20, kRows});
  const auto x = inputs(rng), dy = random_mat(rng, kRows, kN);
  Context ctx(kind().device);
  soil(ctx);
  ExpertStack stack(kind().device, codes, 16);
  const auto a = stack.operands({}, {}, kInputScale);
  Guarded x32(kind().device, x), dy32(kind().device, dy);
  GuardedHalf x16(kind().device, x), dy16(kind().device, dy);
  Guarded dx32(kind().device, kRows, kK);
  GuardedHalf dx16(kind().device, kRows, kK);
  Tensor dw(kind().device, DType::kF32, {3, kN, kK});
  const bool half = kind().half;
  expert_product_backward(ctx, {.dx = half ? dx16.view() : dx32.view(),
                                .dw = dw.view(),
                                .dy = half ? dy16.view() : dy32.view(),
                                .x = half ? x16.view() : x32.view(),
                                .w = weight_of(a),
                                .offsets = a.offsets,
                                .accumulate_dw = false});
  ctx.synchronize();
  Tensor host(Device::kCpu, DType::kF32, {3, kN, kK});
  copy(host.view(), dw.view());
  const auto got_dx = half ? dx16.read() : dx32.read();
  const auto v = scaled(codes.values_of(x, kInputScale), kInputScale);
  const auto gradient = half ? rounded(dy) : dy;
  for (size_t e = 0; e < 3; ++e) {
    const int64_t begin = codes.offsets[e], end = codes.offsets[e + 1];
    const auto part = reference::rows_between(gradient, begin, end);
    expect_close("dx", reference::rows_between(got_dx, begin, end),
                 times(part, scaled(codes.values(e), codes.scales[e])), bound(kN));
    Mat<double> got(kN, kK);
    for (int64_t i = 0; i < got.size(); ++i)
      got[i] = host.ptr<float>()[static_cast<int64_t>(e) * got.size() + i];
    expect_close("dw", got, times(transposed(part), reference::rows_between(v, begin, end)),
                 bound(kRows));
  }
}

// What is measured in front of a product is the largest activation of all calls.
TEST_P(ProductOn, RangesAreOfAllThatWasMultiplied) {
  NESTLING_SKIP_WITHOUT(kind().device, Dequantize, Largest);
  Rng rng(13);
  const ExpertCodes codes = weights(rng, {0, kRows});
  Context ctx(kind().device);
  ExpertStack stack(kind().device, codes, 16);
  Mat<double> zero(1, 1);
  Guarded most(kind().device, zero), y(kind().device, kRows, kN);
  Weight w = matrix_of(stack.operands({}, {}, kInputScale), codes.scales[0]);
  w.largest_input = most.row();
  for (const double largest : {0.5, 2.0, 1.0}) {
    auto x = rounded(random_mat(rng, kRows, kK, 0.01));
    x[kK + 3] = -largest;
    Guarded x32(kind().device, x);
    GuardedHalf x16(kind().device, x);
    product(ctx, {.y = y.view(), .x = kind().half ? x16.view() : x32.view(), .w = w});
  }
  ctx.synchronize();
  EXPECT_EQ(most.read()[0], 2.0);
  auto x = rounded(random_mat(rng, kRows, kK, 0.01));
  x[kK + 3] = -4;
  Guarded x32(kind().device, x);
  GuardedHalf x16(kind().device, x);
  GuardedHalf y16(kind().device, kRows, kN);
  const auto a = stack.operands({}, {}, kInputScale);
  w = weight_of(a);
  w.largest_input = most.row();
  expert_product(ctx, {.y = kind().half ? y16.view() : y.view(),
                       .x = kind().half ? x16.view() : x32.view(),
                       .w = w,
                       .offsets = a.offsets});
  ctx.synchronize();
  EXPECT_EQ(most.read()[0], 4.0) << "of experts";
}

INSTANTIATE_TEST_SUITE_P(Formats, ProductOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::Values(CodeFormat::kFp8,
                                                              CodeFormat::kNvfp4)),
                         [](const auto& test) {
                           return kind_name(std::get<0>(test.param)) + "_" +
                                  format_name(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace nestling
