#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>

#include "kernels/ops/fp8_linear.h"
#include "tests/support/device.h"
#include "tests/support/fp8_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// All values, what lies halfway between neighbours and the floats around it, of both signs; beyond them.
std::vector<float> boundaries() {
  std::vector<float> all = {448.5f,   463.9f,         464.0f,
                            464.1f,   480.0f,         1.0e30f,
                            0x1p-10f, 0x1.00002p-10f, 0x1.ffffep-11f,
                            1e-40f,   1e38f,          std::numeric_limits<float>::infinity()};
  for (int code = 0; code < 0x7f; ++code) {
    const auto low = static_cast<float>(reference::e4m3_value(code));
    const auto high = static_cast<float>(code < 0x7e ? reference::e4m3_value(code + 1) : 480.0);
    const float half = (low + high) / 2;
    for (const float x : {low, half, std::nextafter(half, low), std::nextafter(half, high)})
      all.push_back(x);
  }
  const auto count = static_cast<int64_t>(all.size());
  for (int64_t i = 0; i < count; ++i) all.push_back(-all[static_cast<size_t>(i)]);
  all.push_back(std::numeric_limits<float>::quiet_NaN());
  all.push_back(-std::numeric_limits<float>::quiet_NaN());
  return all;
}

TEST(F8E4M3, EveryCodeIsItsValueAndBack) {
  for (int code = 0; code < 256; ++code) {
    f8e4m3 x;
    x.bits = static_cast<uint8_t>(code);
    const auto value = static_cast<float>(x);
    const double want = reference::e4m3_value(code);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(value)) << code;
      EXPECT_EQ(f8e4m3(value).bits, 0x7f) << code;
      continue;
    }
    EXPECT_EQ(value, want) << code;
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
    EXPECT_EQ(f8e4m3(value).bits, code);
  }
}

TEST(F8E4M3, RoundsToTheNearestEvenAtEveryBoundary) {
  for (const float x : boundaries()) EXPECT_EQ(f8e4m3(x).bits, reference::e4m3_code(x)) << x;
  EXPECT_EQ(reference::e4m3_code(464.0), 0x7e);
  EXPECT_EQ(reference::e4m3_code(-1e9), 0xfe);
  EXPECT_EQ(reference::e4m3_code(0x1p-10), 0x00);  // halfway to the smallest: the even one
  EXPECT_EQ(reference::e4m3_code(0x1.8p-9), 0x02);
  EXPECT_EQ(reference::e4m3_code(-0.0), 0x80);
}

class Fp8QuantizeOn : public ::testing::TestWithParam<Kind> {};

// What is cut out of x and of codes: of rows so far apart, from a row and a column on. Rows begin at multiples of 16
// bytes with a gap of 11; row 7 does with any.
struct Cut {
  int64_t x_gap, codes_gap;
  int64_t row = 0, x_col = 0, codes_col = 0;
};
constexpr Cut kCuts[] = {{0, 0},     {3, 3},     {11, 11}, {11, 11, 0, 0, 1}, {11, 11, 0, 1, 0},
                         {11, 2, 7}, {2, 11, 7}, {0, 11}};

TEST_P(Fp8QuantizeOn, MakesTheCodesOfTheReference) {
  const auto [device, half] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Quantize);
  const auto all = boundaries();
  const int64_t cols = 37;
  const auto rows = (static_cast<int64_t>(all.size()) + cols - 1) / cols;
  for (const float scale : {1.0f, 0.37f, 3.0e-5f})
    for (const Cut& cut : kCuts) {
      Mat<double> x(rows,
                    cols);  // times the scale, so that quotients lie at boundaries and beside them
      for (int64_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<double>(all[static_cast<size_t>(i) % all.size()] * scale);
      if (half) x = rounded(x);
      Guarded x32(device, x, cut.x_gap);
      GuardedHalf x16(device, x, cut.x_gap);
      Codes codes(device, rows, cols, cut.codes_gap);
      const int64_t width = cols - std::max(cut.x_col, cut.codes_col), height = rows - cut.row;
      const View from = half ? x16.view() : x32.view();
      Context ctx(device);
      fp8_quantize(ctx,
                   {.codes = codes.view().slice(0, cut.row, height).slice(1, cut.codes_col, width),
                    .x = from.slice(0, cut.row, height).slice(1, cut.x_col, width),
                    .scale = scale});
      ctx.synchronize();
      const auto got = codes.read();
      for (int64_t r = cut.row; r < rows; ++r)
        for (int64_t c = 0; c < width; ++c) {
          const double value = x(r, cut.x_col + c);
          ASSERT_EQ(got(r, cut.codes_col + c),
                    reference::e4m3_code(static_cast<float>(value / double{scale})))
              << value << " / " << scale << ", cut " << &cut - kCuts;
        }
      codes.expect_guards_intact();
    }
}
INSTANTIATE_TEST_SUITE_P(All, Fp8QuantizeOn, ::testing::ValuesIn(kKinds),
                         [](const auto& test) { return kind_name(test.param); });

}  // namespace
}  // namespace nestling
