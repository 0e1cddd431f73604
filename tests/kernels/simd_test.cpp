#include "kernels/core/simd.h"

#include <cmath>
#include <gtest/gtest.h>

namespace nestling {
namespace {

float exp_lane(float x) {
  float y[8];
  simd::store(y, simd::exp(simd::splat<simd::F8>(x)));
  return y[3];
}

TEST(Simd, ExpIsWithinItsStatedError) {
  double worst = 0;
  for (double x = -86.0; x < 88.0; x += 0.00371) {
    const double want = std::exp(static_cast<double>(static_cast<float>(x)));
    worst = std::max(worst, std::abs(exp_lane(static_cast<float>(x)) - want) / want);
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(Simd, WideAndNarrowVectorsGiveTheSameExp) {
  for (float x = -90.0f; x < 90.0f; x += 0.37f) {
    float wide[16];
    simd::store(wide, simd::exp(simd::splat<simd::F16>(x)));
    EXPECT_EQ(wide[11], exp_lane(x)) << x;
  }
}

TEST(Simd, ExpAtTheEnds) {
  EXPECT_EQ(exp_lane(-200.0f), 0.0f);
  EXPECT_EQ(exp_lane(-INFINITY), 0.0f);
  EXPECT_EQ(exp_lane(200.0f), INFINITY);
  EXPECT_TRUE(std::isnan(exp_lane(NAN)));
  EXPECT_EQ(exp_lane(0.0f), 1.0f);
}

TEST(Simd, PartialLoadsTouchOnlyTheirLanes) {
  float from[8], to[8];
  for (int i = 0; i < 8; ++i) {
    from[i] = static_cast<float>(i + 1);
    to[i] = -1.0f;
  }
  simd::store_n(to, simd::load_n<simd::F8>(from, 5), 5);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(to[i], i < 5 ? from[i] : -1.0f);
}

TEST(Simd, Bf16RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(bf16(1.0f + 0x1p-8f)), 1.0f);  // tie to even
  EXPECT_EQ(static_cast<float>(bf16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(NAN))));
  EXPECT_EQ(static_cast<float>(bf16(INFINITY)), INFINITY);
}

}  // namespace
}  // namespace nestling
