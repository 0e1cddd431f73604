#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <limits>

#include "data/safetensors.h"
#include "tests/support/device.h"
#include "tests/support/nvfp4_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What lies halfway between neighbours, and the floats around it, of both signs.
std::vector<float> boundaries() {
  std::vector<float> all;
  for (const float bound : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f})
    for (const float x : {bound, std::nextafter(bound, 0.0f), std::nextafter(bound, 6.0f)})
      for (const float sign : {1.0f, -1.0f}) all.push_back(sign * x);
  return all;
}

TEST(E2M1, EveryCodeIsItsValueAndBack) {
  const float sizes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int code = 0; code < 16; ++code) {
    const float want = code < 8 ? sizes[code] : -sizes[code - 8];
    EXPECT_EQ(e2m1_value(static_cast<uint8_t>(code)), want);
    EXPECT_EQ(reference::e2m1_value(code), want);
    EXPECT_EQ(e2m1_code(want), code == 8 ? 0 : code);  // -0 becomes 0
  }
}

TEST(E2M1, RoundsToTheNearestEvenAtEveryBoundary) {
  for (const float x : boundaries()) EXPECT_EQ(e2m1_code(x), reference::e2m1_code(x)) << x;
  const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const int codes[] = {0, 2, 2, 4, 4, 6, 6};
  for (size_t i = 0; i < std::size(ties); ++i) {
    EXPECT_EQ(e2m1_code(ties[i]), codes[i]) << ties[i];
    EXPECT_EQ(e2m1_code(-ties[i]), codes[i] | 8) << -ties[i];
  }
  for (const float x : {6.0f, 7.0f, 1e30f, kInfinity, kNan}) {
    EXPECT_EQ(e2m1_code(x), 7) << x;
    EXPECT_EQ(reference::e2m1_code(x), 7) << x;
  }
  EXPECT_EQ(e2m1_code(-kInfinity), 15);
  EXPECT_EQ(e2m1_code(-1e-40f), 8);
}

TEST(Nvfp4, ScalesOfBlocks) {
  const auto scale = [](float largest, float tensor) {
    return static_cast<float>(nvfp4_block_scale(largest, tensor));
  };
  EXPECT_EQ(scale(0, 0.5f), 1.0f);
  EXPECT_EQ(scale(3, 0.5f), 1.0f);
  EXPECT_EQ(scale(6.3f, 1.0f), 1.0f);  // 1.05 lies below 1.0625, halfway to 1.125
  EXPECT_EQ(scale(2688, 1.0f), 448.0f);
  EXPECT_EQ(scale(1e30f, 1.0f), 448.0f);
  EXPECT_EQ(scale(kInfinity, 1.0f), 448.0f);
  EXPECT_EQ(scale(1e-30f, 1.0f), 0x1p-9f);  // would be 0 in E4M3
  EXPECT_EQ(scale(6 * 0x1.8p-9f, 1.0f), 0x1p-8f);
  EXPECT_TRUE(std::isnan(scale(kNan, 1.0f)));
}

// Blocks of all kinds, times `scale`: boundaries beside a 6, zeros, -0, infinities, NaN, what is beyond the largest
// scale and below the smallest; and random ones of sizes from 2^-30 to 2^15.
Mat<double> blocks(double scale, int64_t rows, int64_t cols) {
  Rng rng(11);
  std::vector<double> special;
  const auto block = [&](const std::vector<float>& values, float rest) {
    for (size_t i = 0; i < 16; ++i)
      special.push_back(i < values.size() ? scale * double{values[i]} : double{rest});
  };
  const std::vector<float> ties = boundaries();
  for (size_t i = 0; i < ties.size(); i += 14) {
    std::vector<float> some(ties.begin() + static_cast<long>(i),
                            ties.begin() + static_cast<long>(i) + 14);
    some.push_back(-6.0f);
    block(some, 0.0f);
  }
  block({}, 0.0f);
  block({}, -0.0f);
  block({1, -2, kInfinity, 3, 1e5f}, -1.0f);
  block({1, -2, kNan, 3, -kInfinity}, 0.5f);
  block({-2688, 2687, 2000, 224, 112}, -1.0f);
  block({2689, -5000, 1344, 1343, 100}, 0.0f);
  block({0x1p-10f, -0x1p-11f, 0x1.8p-10f, 0x1p-9f}, 0.0f);  // scale 2^-9: the smallest codes
  block({0x1p-12f, -0x1p-13f}, 0.0f);
  block({1e-30f, -1e-38f}, 0.0f);
  Mat<double> x(rows, cols);
  for (int64_t b = 0; b < x.size() / 16; ++b) {
    const double size = scale * std::ldexp(1, static_cast<int>(rng.below(46)) - 30);
    for (int64_t i = 16 * b; i < 16 * b + 16; ++i)
      x[i] = i < std::ssize(special) ? special[static_cast<size_t>(i)] : size * rng.normal();
  }
  for (auto& v : x.v) v = static_cast<float>(v);
  return x;
}

class Nvfp4QuantizeOn : public ::testing::TestWithParam<std::tuple<Kind, int64_t>> {};

// Rows of x and of codes at multiples of 16 bytes, at others, and without gaps; from row 7 on the first is at one.
TEST_P(Nvfp4QuantizeOn, MakesTheCodesOfTheReference) {
  const auto [kind, cols] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Nvfp4Quantize);
  for (const float scale : {1.0f, 0.37f, 3.0e-5f})
    for (const auto& [gap, codes_gap, row] : std::initializer_list<std::array<int64_t, 3>>{
             {0, 0, 0}, {3, 3, 0}, {8, 8, 0}, {8, 3, 7}, {3, 8, 7}}) {
      auto x = blocks(double{scale}, 11, cols);
      if (half) x = rounded(x);
      Guarded x32(device, x, gap);
      GuardedHalf x16(device, x, gap);
      GuardedNvfp4 out(device, x.rows, x.cols, codes_gap);
      Context ctx(device);
      const auto cut = [first = row](View v) { return v.slice(0, first, v.dim(0) - first); };
      const Nvfp4Quantize a{.codes = cut(out.codes()),
                            .scales = cut(out.scales()),
                            .x = cut(half ? x16.view() : x32.view()),
                            .scale = scale};
      nvfp4_quantize(ctx, a);
      ctx.synchronize();
      const auto got = out.read();
      const auto want = reference::nvfp4_of(x, scale);
      for (int64_t i = row * cols / 16; i < want.scales.size(); ++i)
        ASSERT_EQ(got.scales[i], want.scales[i]) << "block " << i << ", " << scale << ", " << gap;
      for (int64_t i = row * cols; i < x.size(); ++i)
        ASSERT_EQ(got.codes[i], want.codes[i]) << x[i] << ", " << scale << ", gap " << gap;
      out.expect_guards_intact();
      nvfp4_quantize(ctx, a);
      ctx.synchronize();
      EXPECT_EQ(out.read().codes.v, got.codes.v) << "the second time";
    }
}
INSTANTIATE_TEST_SUITE_P(All, Nvfp4QuantizeOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::Values(16, 48, 112, 4112)),
                         [](const auto& test) {
                           return str(kind_name(std::get<0>(test.param)), "_",
                                      std::get<1>(test.param));
                         });

// tests/golden/nvfp4.py: ml_dtypes' E2M1 and E4M3.
class Nvfp4Golden : public ::testing::TestWithParam<Device> {};

TEST_P(Nvfp4Golden, CodesAndScales) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Quantize);
  const char* root = std::getenv("NESTLING_SOURCE_DIR");
  const SafetensorsFile file(std::filesystem::path(root != nullptr ? root : ".") /
                             "tests/golden/ops/nvfp4.safetensors");
  const ConstView x = file.at("x").view();
  Tensor from(device, DType::kF32, {x.dim(0), x.dim(1)});
  copy(from.view(), x);
  GuardedNvfp4 out(device, x.dim(0), x.dim(1), 8);
  Context ctx(device);
  nvfp4_quantize(ctx, {.codes = out.codes(),
                       .scales = out.scales(),
                       .x = from,
                       .scale = file.at("weight_scale_2").view().ptr<float>()[0]});
  ctx.synchronize();
  const auto got = out.read();
  const auto bytes = packed(got.codes);
  const std::byte* codes = file.at("weight").view().data();
  const std::byte* scales = file.at("weight_scale").view().data();
  for (int64_t i = 0; i < bytes.size(); ++i)
    ASSERT_EQ(bytes[i], std::to_integer<int>(codes[i])) << "byte " << i;
  for (int64_t i = 0; i < got.scales.size(); ++i)
    ASSERT_EQ(got.scales[i], std::to_integer<int>(scales[i])) << "block " << i;
  // Bit for bit what a reader of the file makes of them, in f32.
  const float* values = file.at("values").view().ptr<float>();
  const auto own = reference::nvfp4_values(got);
  for (int64_t i = 0; i < own.size(); ++i) ASSERT_EQ(own[i], double{values[i]}) << i;
}
INSTANTIATE_TEST_SUITE_P(All, Nvfp4Golden, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

}  // namespace
}  // namespace nestling
