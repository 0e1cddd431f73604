// Values of codes: one rounding, so every one is exact.
#include "kernels/ops/dequantize.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/expert_codes.h"
#include "tests/support/soil.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// A value of codes times its tensor's scale, as the operator rounds it.
double dequantized(double value, float scale, bool half) {
  const auto f = static_cast<float>(value * double{scale});
  return half ? double{static_cast<float>(bf16(f))} : double{f};
}

// `codes_gap`: bytes behind a row of codes; `y_gap`: elements behind one of y. Gaps of 16 keep rows on 16 bytes.
struct Shape {
  int64_t rows, cols, codes_gap, y_gap;
};
std::string shape_name(const Shape& s) {
  return str(s.rows, "x", s.cols, "_gaps_", s.codes_gap, "_", s.y_gap);
}

class DequantizeOn : public ::testing::TestWithParam<std::tuple<Kind, CodeFormat, Shape>> {};

// All codes are there, NaN but for.
TEST_P(DequantizeOn, MatricesAreExact) {
  const auto [kind, format, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Dequantize);
  if (format == CodeFormat::kNvfp4 && s.cols % 16 != 0) return;
  Rng rng(3, static_cast<uint64_t>(s.cols));
  const float scale = 0.00137f;
  const double largest = double{scale} * (format == CodeFormat::kFp8 ? 448 : 2688);
  ExpertCodes w{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {}};
  w.add(random_mat(rng, s.rows, s.cols, largest / 2), scale);
  Context ctx(device);
  soil(ctx);
  Guarded y32(device, s.rows, s.cols, s.y_gap);
  GuardedHalf y16(device, s.rows, s.cols, s.y_gap);
  const View y = half ? y16.view() : y32.view();
  if (format == CodeFormat::kFp8) {
    Codes codes(device, w.fp8[0], s.codes_gap);
    dequantize(ctx, {.y = y, .codes = codes.view(), .scale = scale});
  } else {
    GuardedNvfp4 q(device, w.nvfp4[0], scale, s.codes_gap);
    dequantize(ctx, {.y = y, .codes = q.codes(), .block_scales = q.scales(), .scale = scale});
  }
  ctx.synchronize();
  const auto got = half ? y16.read() : y32.read();
  const auto values = w.values(0);
  for (int64_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], dequantized(values[i], scale, half)) << "element " << i;
  y32.expect_guards_intact("y");
  y16.expect_guards_intact("y");
}

// Stacks cut out of larger ones on all three axes, each expert by its own scale.
TEST_P(DequantizeOn, StacksOfExpertsAreExact) {
  const auto [kind, format, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Dequantize);
  if (format == CodeFormat::kNvfp4 && s.cols % 16 != 0) return;
  Rng rng(5, static_cast<uint64_t>(s.cols));
  ExpertCodes w{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {0, 1, 1, 2}};
  for (int e = 0; e < 3; ++e) {
    const float scale = 0.00021f * static_cast<float>(e + 1);
    w.add(random_mat(rng, s.rows, s.cols, double{scale} * 200), scale);
  }
  Context ctx(device);
  ExpertStack stack(device, w, s.codes_gap);
  const auto a = stack.operands({}, {}, 1.0f);
  const DType type = half ? DType::kBF16 : DType::kF32;
  Tensor all(device, type, {4, s.rows + 1, s.cols + s.y_gap});
  const View y = all.view().prefix(0, 3).prefix(1, s.rows).prefix(2, s.cols);
  fill_zero(all.view());
  dequantize(ctx, {.y = y,
                   .codes = a.codes,
                   .block_scales = a.block_scales,
                   .expert_scales = a.scales,
                   .scale = 1e30f});  // not read
  ctx.synchronize();
  Tensor host(Device::kCpu, type, {4, s.rows + 1, s.cols + s.y_gap});
  copy(host.view(), all.view());
  int64_t at = 0;
  for (size_t e = 0; e < 4; ++e) {
    const auto values = w.values(std::min<size_t>(e, 2));
    for (int64_t r = 0; r <= s.rows; ++r)
      for (int64_t c = 0; c < s.cols + s.y_gap; ++c, ++at) {
        const bool inside = e < 3 && r < s.rows && c < s.cols;
        const double want = inside ? dequantized(values(r, c), w.scales[e], half) : 0.0;
        const double got =
            half ? double{static_cast<float>(host.ptr<bf16>()[at])} : double{host.ptr<float>()[at]};
        ASSERT_EQ(got, want) << "expert " << e << ", row " << r << ", column " << c;
      }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, DequantizeOn,
    ::testing::Combine(::testing::ValuesIn(kKinds),
                       ::testing::Values(CodeFormat::kFp8, CodeFormat::kNvfp4),
                       ::testing::Values(Shape{5, 48, 0, 0}, Shape{7, 64, 16, 8},
                                         Shape{3, 32, 3, 3}, Shape{300, 272, 8, 1},
                                         Shape{4, 37, 1, 2})),
    [](const auto& test) {
      return str(kind_name(std::get<0>(test.param)), "_", format_name(std::get<1>(test.param)), "_",
                 shape_name(std::get<2>(test.param)));
    });

TEST(Dequantize, ShapesAndTypesAreChecked) {
  Context ctx(Device::kNull);
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return View(nullptr, dtype, Device::kNull, shape);
  };
  const Dequantize nvfp4{.y = view(DType::kF32, {6, 48}),
                         .codes = view(DType::kU8, {6, 24}),
                         .block_scales = view(DType::kF8E4M3, {6, 3})};
  const Dequantize experts{.y = view(DType::kF32, {4, 6, 48}),
                           .codes = view(DType::kF8E4M3, {4, 6, 48}),
                           .expert_scales = view(DType::kF32, {4})};
  dequantize(ctx, nvfp4);
  dequantize(ctx, experts);
  const auto refused = [&](Dequantize a, const auto& change, const char* message) {
    change(a);
    expect_error([&] { dequantize(ctx, a); }, {"dequantize: ", message}, ErrorKind::kRuntime);
  };
  refused(
      nvfp4,
      [&](auto& a) {
        a.codes = view(DType::kU8, {6, 48});
      },
      "need 24 in the last");
  refused(
      nvfp4, [&](auto& a) { a.block_scales = {}; }, "codes is [6,24] u8 null, needs f8_e4m3");
  refused(
      nvfp4,
      [&](auto& a) {
        a.block_scales = view(DType::kF8E4M3, {5, 3});
      },
      "block_scales");
  refused(
      nvfp4, [&](auto& a) { a.expert_scales = view(DType::kF32, {6}); }, "beside scales");
  refused(
      experts, [&](auto& a) { a.expert_scales = {}; }, "without scales of experts");
  refused(
      experts, [&](auto& a) { a.expert_scales = view(DType::kF32, {3}); }, "needs [4]");
  refused(
      experts,
      [&](auto& a) {
        a.y = view(DType::kF16, {4, 6, 48});
      },
      "off the CPU bf16");
}

}  // namespace
}  // namespace nestling
