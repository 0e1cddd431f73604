#include "data/interval.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/check.h"
#include "kernels/core/rng.h"

namespace nestling {
namespace {

// The Wilson limits are the roots of |p - x| = z sqrt(x (1 - x) / n): checked by substitution.
TEST(Wilson, LimitsSolveTheScoreEquation) {
  constexpr double kZ = 1.959963984540054;
  for (const auto& [k, n] : {std::pair{3, 10}, {81, 263}, {999, 1000}, {1, 7}}) {
    const Interval i = wilson_interval(k, n);
    EXPECT_DOUBLE_EQ(i.estimate, static_cast<double>(k) / n);
    for (const double x : {i.low, i.high})
      // A root of a quadratic whose terms are below 1: a dozen roundings.
      EXPECT_NEAR(std::abs(i.estimate - x), kZ * std::sqrt(x * (1 - x) / n), 12 * 0x1.0p-52);
  }
  EXPECT_EQ(wilson_interval(0, 5).low, 0.0);
  EXPECT_EQ(wilson_interval(5, 5).high, 1.0);
  EXPECT_GT(wilson_interval(0, 5).high, 0.0);
  EXPECT_THROW(wilson_interval(6, 5), Error);
  EXPECT_THROW(wilson_interval(0, 0), Error);
}

// Newcombe 1998's worked example: 81 of 263 gives 0.2553 to 0.3662.
TEST(Wilson, AgreesWithAPublishedExample) {
  const Interval i = wilson_interval(81, 263);
  EXPECT_NEAR(i.low, 0.2553, 5e-5);  // half a unit of the last published digit
  EXPECT_NEAR(i.high, 0.3662, 5e-5);
}

TEST(Paired, IsOddUnderExchangeAndRefusesNonsense) {
  const Interval ab = paired_interval(9, 3, 40);
  const Interval ba = paired_interval(3, 9, 40);
  EXPECT_DOUBLE_EQ(ab.low, -ba.high);
  EXPECT_DOUBLE_EQ(ab.high, -ba.low);
  EXPECT_DOUBLE_EQ(ab.estimate, 6.0 / 40);
  EXPECT_THROW(paired_interval(30, 20, 40), Error);
}

// Both cover the truth in at least 93% of 4,000 simulated experiments: nominal 95%, the binomial
// error of the simulation is 0.34%, and score intervals dip by up to 1% at some (n, p).
TEST(Intervals, CoverTheTruth) {
  Rng rng(3);
  constexpr int kRuns = 4000;
  constexpr int kN = 100;
  int wilson = 0;
  int paired = 0;
  for (int run = 0; run < kRuns; ++run) {
    int right = 0;
    int only_a = 0;
    int only_b = 0;
    for (int i = 0; i < kN; ++i) {
      right += rng.uniform() < 0.15;
      const double u = rng.uniform();  // a alone 12%, b alone 5%
      only_a += u < 0.12;
      only_b += u > 0.95;
    }
    const Interval w = wilson_interval(right, kN);
    wilson += w.low <= 0.15 && 0.15 <= w.high;
    const Interval p = paired_interval(only_a, only_b, kN);
    paired += p.low <= 0.07 && 0.07 <= p.high;
  }
  EXPECT_GE(wilson, 0.93 * kRuns);
  EXPECT_GE(paired, 0.93 * kRuns);
}

}  // namespace
}  // namespace nestling
