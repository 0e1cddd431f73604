#include "kernels/ops/elementwise.h"

#include <gtest/gtest.h>

#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

struct Shape {
  int64_t rows, cols, gap;  // gap 0: dense, on the path of one long row
};

class Elementwise : public ::testing::TestWithParam<Shape> {};

TEST_P(Elementwise, MatchesScalarArithmetic) {
  const auto [rows, cols, gap] = GetParam();
  Rng rng(3, static_cast<uint64_t>(cols));
  const auto a = random_mat(rng, rows, cols), b = random_mat(rng, rows, cols);
  Context ctx(Device::kCpu);
  Guarded ga(Device::kCpu, a, gap), gb(Device::kCpu, b, gap), y(Device::kCpu, rows, cols, gap);
  Mat<double> want(rows, cols);
  add(ctx, y.view(), ga.view(), gb.view());
  for (int64_t i = 0; i < want.size(); ++i) want[i] = static_cast<float>(a[i] + b[i]);
  EXPECT_EQ(y.read().v, want.v);
  scale(ctx, y.view(), -1.5f);
  for (auto& x : want.v) x = static_cast<float>(x * -1.5);
  EXPECT_EQ(y.read().v, want.v);
  add_scaled(ctx, y.view(), gb.view(), 0.3f);
  for (int64_t i = 0; i < want.size(); ++i) want[i] += b[i] * static_cast<double>(0.3f);
  // One multiplication and one addition, rounded once each (or once together).
  expect_close("add_scaled", y.read(), want, kEps32, kEps32 * 0.3 * norm(b));
  y.expect_guards_intact("y");
}

TEST_P(Elementwise, CastRoundsToNearestEven) {
  const auto [rows, cols, gap] = GetParam();
  Rng rng(4, static_cast<uint64_t>(cols));
  auto x = random_mat(rng, rows, cols);
  // A tie below and above an even neighbour, the largest float, a subnormal.
  const double corners[] = {1.0 + 0x1.0p-8, 1.0 + 0x3.0p-8, 3.4028234663852886e38, 0x1.0p-140};
  for (int64_t i = 0; i < std::min<int64_t>(x.size(), 4); ++i) x[i] = corners[i];
  Context ctx(Device::kCpu);
  Guarded gx(Device::kCpu, x, gap), back(Device::kCpu, rows, cols, gap);
  GuardedHalf half(rows, cols, gap);
  cast(ctx, half.view(), gx.view());
  const auto want = rounded(x);
  EXPECT_EQ(half.read().v, want.v);
  cast(ctx, back.view(), half.view());
  EXPECT_EQ(back.read().v, want.v);
  half.expect_guards_intact("half");
  back.expect_guards_intact("back");
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise,
                         ::testing::Values(Shape{1, 1, 3}, Shape{5, 7, 3}, Shape{3, 64, 0},
                                           Shape{40, 1001, 5}, Shape{40, 1001, 0}));

TEST(ElementwiseCast, KeepsNaN) {
  Context ctx(Device::kCpu);
  Tensor x(Device::kCpu, DType::kF32, {33}), half(Device::kCpu, DType::kBF16, {33});
  for (int64_t i = 0; i < 33; ++i) x.ptr<float>()[i] = std::bit_cast<float>(0x7f800001u);
  cast(ctx, half, x);
  for (int64_t i = 0; i < 33; ++i)
    EXPECT_TRUE(std::isnan(static_cast<float>(half.ptr<bf16>()[i]))) << i;
}

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
