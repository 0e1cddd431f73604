#include "kernels/ops/elementwise.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

struct Shape {
  int64_t rows, cols, gap;  // gap 0: dense, on the path of one long row
};

class Elementwise : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(Elementwise, MatchesScalarArithmetic) {
  const auto [device, shape] = GetParam();
  const auto [rows, cols, gap] = shape;
  if (device == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  Rng rng(3, static_cast<uint64_t>(cols));
  const auto a = random_mat(rng, rows, cols), b = random_mat(rng, rows, cols);
  Context ctx(device);
  Guarded ga(device, a, gap), gb(device, b, gap), y(device, rows, cols, gap);
  Mat<double> want(rows, cols);
  add(ctx, y.view(), ga.view(), gb.view());
  ctx.synchronize();
  for (int64_t i = 0; i < want.size(); ++i) want[i] = static_cast<float>(a[i] + b[i]);
  EXPECT_EQ(y.read().v, want.v);
  scale(ctx, y.view(), -1.5f);
  ctx.synchronize();
  for (auto& x : want.v) x = static_cast<float>(x * -1.5);
  EXPECT_EQ(y.read().v, want.v);
  add_scaled(ctx, y.view(), gb.view(), 0.3f);
  ctx.synchronize();
  for (int64_t i = 0; i < want.size(); ++i) want[i] += b[i] * static_cast<double>(0.3f);
  // One multiplication and one addition, rounded once each (or once together).
  expect_close("add_scaled", y.read(), want, kEps32, kEps32 * 0.3 * norm(b));
  y.expect_guards_intact("y");
}

// One operand of three has gaps: nothing is one long row, and in packs of four all are read so or none.
TEST_P(Elementwise, GapsOfOneOperandAreItsOwn) {
  const auto [device, shape] = GetParam();
  const auto [rows, cols, gap] = shape;
  if (device == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  Rng rng(5, static_cast<uint64_t>(cols));
  const auto a = random_mat(rng, rows, cols), b = random_mat(rng, rows, cols);
  Context ctx(device);
  Mat<double> want(rows, cols);
  for (int64_t i = 0; i < want.size(); ++i) want[i] = static_cast<float>(a[i] + b[i]);
  for (int which = 0; which < 3; ++which) {
    const auto gap_of = [&, beyond = gap + 1](int operand) {
      return operand == which ? beyond : 0;
    };
    Guarded ga(device, a, gap_of(0)), gb(device, b, gap_of(1)), y(device, rows, cols, gap_of(2));
    add(ctx, y.view(), ga.view(), gb.view());
    ctx.synchronize();
    EXPECT_EQ(y.read().v, want.v) << "operand " << which;
    y.expect_guards_intact("y");
  }
}

TEST_P(Elementwise, CastRoundsToNearestEven) {
  const auto [device, shape] = GetParam();
  const auto [rows, cols, gap] = shape;
  if (device == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  Rng rng(4, static_cast<uint64_t>(cols));
  auto x = random_mat(rng, rows, cols);
  // A tie below and above an even neighbour, the largest float, a subnormal.
  const double corners[] = {1.0 + 0x1.0p-8, 1.0 + 0x3.0p-8, 3.4028234663852886e38, 0x1.0p-140};
  for (int64_t i = 0; i < std::min<int64_t>(x.size(), 4); ++i) x[i] = corners[i];
  Context ctx(device);
  Guarded gx(device, x, gap), back(device, rows, cols, gap);
  GuardedHalf half(device, rows, cols, gap);
  cast(ctx, half.view(), gx.view());
  ctx.synchronize();
  const auto want = rounded(x);
  EXPECT_EQ(half.read().v, want.v);
  cast(ctx, back.view(), half.view());
  ctx.synchronize();
  EXPECT_EQ(back.read().v, want.v);
  half.expect_guards_intact("half");
  back.expect_guards_intact("back");
}

TEST_P(Elementwise, CastKeepsNaN) {
  const auto [device, shape] = GetParam();
  const auto [rows, cols, gap] = shape;
  if (device == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  Context ctx(device);
  // Only low bits of the mantissa: cut off, they would leave an infinity.
  Guarded x(device, rows, cols, gap);
  x.fill(std::bit_cast<float>(0x7f800001u));
  GuardedHalf half(device, Mat<double>(rows, cols), gap);
  cast(ctx, half.view(), x.view());
  ctx.synchronize();
  for (double v : half.read().v) EXPECT_TRUE(std::isnan(v));
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, shape] = test.param;
  return str(device_name(device), "_", shape.rows, "x", shape.cols, "_gap", shape.gap);
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::Values(Shape{1, 1, 3}, Shape{5, 7, 3},
                                                              Shape{3, 64, 0}, Shape{40, 1001, 5},
                                                              Shape{40, 1001, 7},
                                                              Shape{40, 1001, 0})),
                         case_name);

TEST(ElementwiseContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {4, 8});
  const View y(nullptr, DType::kF32, Device::kNull, {4, 7});
  EXPECT_THROW(add(ctx, x, x, y), Error);
  EXPECT_THROW(cast(ctx, View(nullptr, DType::kI32, Device::kNull, {4, 8}), x), Error);
  add(ctx, x, x, x);
  EXPECT_EQ(ctx.work().at("add").bytes, 12.0 * 32);
}

}  // namespace
}  // namespace nestling
