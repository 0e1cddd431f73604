// Which sizes a micro-batch trains: how often, never one twice, and the same wherever it is asked.
#include "trainer/size_draw.h"

#include <cmath>
#include <gtest/gtest.h>
#include <set>

namespace nestling {
namespace {

constexpr uint64_t kSeed = 42;
const std::vector<double> kWeights = {0.5, 0.3, 0.0, 0.2};

TEST(SizeDraw, AllAreTrainedWithTheirWeightsInTheLoss) {
  const auto drawn = draw_sizes(kWeights, 4, kSeed, 7, 0);
  ASSERT_EQ(drawn.size(), 3u);  // one has no weight
  for (const DrawnSize& d : drawn) EXPECT_EQ(d.weight, kWeights[static_cast<size_t>(d.size)]);
}

// Binomial counts of n draws: five standard deviations are left once in two million.
TEST(SizeDraw, OneIsDrawnAsOftenAsItsWeightSays) {
  constexpr int64_t kDraws = 20000;
  std::vector<double> times(kWeights.size());
  for (int64_t i = 0; i < kDraws; ++i) {
    const auto drawn = draw_sizes(kWeights, 1, kSeed, i / 8, i % 8);
    ASSERT_EQ(drawn.size(), 1u);
    EXPECT_EQ(drawn[0].weight, 1.0);
    times[static_cast<size_t>(drawn[0].size)] += 1;
  }
  for (size_t s = 0; s < times.size(); ++s)
    EXPECT_NEAR(times[s], kDraws * kWeights[s],
                5 * std::sqrt(kDraws * kWeights[s] * (1 - kWeights[s])));
}

TEST(SizeDraw, SeveralAreNeverTheSameAndNeverOneWithoutWeight) {
  std::set<std::set<int64_t>> seen;
  for (int64_t step = 0; step < 200; ++step) {
    const auto drawn = draw_sizes(kWeights, 2, kSeed, step, 0);
    ASSERT_EQ(drawn.size(), 2u);
    EXPECT_NE(drawn[0].size, drawn[1].size);
    for (const DrawnSize& d : drawn) {
      EXPECT_NE(d.size, 2);
      EXPECT_EQ(d.weight, 0.5);
    }
    seen.insert({drawn[0].size, drawn[1].size});
  }
  EXPECT_EQ(seen.size(), 3u);  // every pair of those that have one
}

TEST(SizeDraw, DependsOnSeedStepAndMicroStepAlone) {
  const auto sizes = [](uint64_t seed, int64_t step, int64_t micro_step) {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < 32; ++i)
      all.push_back(draw_sizes(kWeights, 1, seed, step + i, micro_step).at(0).size);
    return all;
  };
  EXPECT_EQ(sizes(kSeed, 0, 0), sizes(kSeed, 0, 0));
  EXPECT_NE(sizes(kSeed, 0, 0), sizes(kSeed + 1, 0, 0));
  EXPECT_NE(sizes(kSeed, 0, 0), sizes(kSeed, 1000, 0));
  EXPECT_NE(sizes(kSeed, 0, 0), sizes(kSeed, 0, 1));
}

TEST(SizeDraw, FewerWithAWeightThanWantedAreFewer) {
  EXPECT_EQ(draw_sizes({0.0, 1.0, 0.0}, 2, kSeed, 3, 0).size(), 1u);
}

}  // namespace
}  // namespace nestling
