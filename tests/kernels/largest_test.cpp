#include "kernels/ops/largest.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>

#include "tests/support/device.h"
#include "tests/support/fp8_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class LargestOn : public ::testing::TestWithParam<Kind> {
 protected:
  // The largest of x, on from what was there.
  static double run(const Kind& kind, const Mat<double>& x, double before) {
    Context ctx(kind.device);
    Guarded x32(kind.device, x, 5);
    GuardedHalf x16(kind.device, x, 5);
    Mat<double> one(1, 1);
    one[0] = before;
    Guarded most(kind.device, one);
    largest(ctx, {.largest = most.row(), .x = kind.half ? x16.view() : x32.view()});
    ctx.synchronize();
    most.expect_guards_intact("largest");
    return most.read()[0];
  }
};

// Sentinels around the view are larger than all of x. At every place, of either sign; a thread and a block have many.
TEST_P(LargestOn, FindsTheLargestSizeWhereverItIs) {
  NESTLING_SKIP_WITHOUT(GetParam().device, Largest);
  Rng rng(1);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {300, 257}}) {
    Mat<double> x = rounded(random_mat(rng, rows, cols, 0.25));
    for (auto& v : x.v) v = std::fmax(-1, std::fmin(1, v));
    const int64_t size = rows * cols;
    for (const int64_t at : {int64_t{0}, size / 2, size - 1}) {
      Mat<double> with = x;
      with[at] = at % 2 == 0 ? 1.5 : -1.5;
      EXPECT_EQ(run(GetParam(), with, 0), 1.5) << rows << " x " << cols << ", at " << at;
      EXPECT_EQ(run(GetParam(), with, 2), 2.0) << "what was there before";
    }
  }
}

TEST_P(LargestOn, WhatIsNotFiniteIsInfinity) {
  NESTLING_SKIP_WITHOUT(GetParam().device, Largest);
  for (const double bad : {std::nan(""), -std::nan(""), kInfinity, -kInfinity}) {
    Mat<double> x(2, 40);
    x(1, 33) = bad;
    x(1, 34) = 3;
    EXPECT_EQ(run(GetParam(), x, 7), kInfinity) << bad;
  }
}

TEST_P(LargestOn, OfNothingIsWhatWasThere) {
  NESTLING_SKIP_WITHOUT(GetParam().device, Largest);
  EXPECT_EQ(run(GetParam(), Mat<double>(0, 8), 0.5), 0.5);
  EXPECT_EQ(run(GetParam(), Mat<double>(2, 8), 0), 0.0);
}

INSTANTIATE_TEST_SUITE_P(All, LargestOn, ::testing::ValuesIn(kKinds),
                         [](const auto& test) { return kind_name(test.param); });

}  // namespace
}  // namespace nestling
