// Learning rates at the ends and corners of every schedule, and where the steps of a curriculum lie.
#include "trainer/schedule.h"

#include <gtest/gtest.h>

#include "trainer/curriculum.h"

namespace nestling {
namespace {

constexpr int64_t kWarmup = 1000, kTotal = 11000;

OptimizerConfig peak_two(const char* schedule) {
  OptimizerConfig c;
  c.lr = 2;
  c.min_lr_ratio = 0.25;
  c.warmup_tokens = kWarmup;
  c.schedule = schedule;
  c.decay_share = 0.2;
  return c;
}

struct Expected {
  int64_t tokens;
  double cosine, linear, constant, wsd;
};

TEST(Schedule, RisesOverTheWarmupAndEndsAtItsShare) {
  const double low = 0.5, quarter = low + 1.5 * 0.5 * (1 + std::sqrt(0.5));  // cos(pi / 4)
  const std::vector<Expected> at = {
      {0, 0, 0, 0, 0},
      {250, 0.5, 0.5, 0.5, 0.5},
      {kWarmup, 2, 2, 2, 2},
      {3500, quarter, 1.625, 2, 2},  // a quarter of what is behind the warmup
      {6000, 1.25, 1.25, 2, 2},
      {9000, low + 1.5 * 0.5 * (1 - std::cos(0.2 * 3.14159265358979323846)), 0.8, 2, 2},
      {10000, low + 1.5 * 0.5 * (1 - std::cos(0.1 * 3.14159265358979323846)), 0.65, 2, 1.25},
      {kTotal, low, low, 2, low},
      {2 * kTotal, low, low, 2, low}};
  for (const Expected& e : at) {
    const auto rate = [&](const char* schedule) {
      return learning_rate(peak_two(schedule), e.tokens, kTotal);
    };
    EXPECT_NEAR(rate("cosine"), e.cosine, 1e-12) << e.tokens;
    EXPECT_NEAR(rate("linear"), e.linear, 1e-12) << e.tokens;
    EXPECT_NEAR(rate("constant"), e.constant, 1e-12) << e.tokens;
    EXPECT_NEAR(rate("wsd"), e.wsd, 1e-12) << e.tokens;
  }
}

// 3 steps, the last of which goes beyond the tokens asked for, and 2 of another length.
TEST(Curriculum, PhasesFollowEachOtherAndBeginTheirData) {
  RunConfig c;
  c.curriculum = {{.name = "short", .seq_len = 10, .tokens = 201, .global_batch_tokens = 100},
                  {.name = "long", .seq_len = 50, .tokens = 400, .global_batch_tokens = 200}};
  const Curriculum curriculum(c);
  EXPECT_EQ(curriculum.steps(), 5);
  EXPECT_EQ(curriculum.tokens(), 700);
  struct Place {
    size_t phase;
    int64_t step, position, tokens_before;
  };
  const std::vector<Place> places = {
      {0, 0, 0, 0}, {0, 1, 10, 100}, {0, 2, 20, 200}, {1, 0, 0, 300}, {1, 1, 4, 500}};
  for (int64_t step = 0; step < 5; ++step) {
    const PlaceInCurriculum got = curriculum.place(step);
    const Place& want = places[static_cast<size_t>(step)];
    EXPECT_EQ(got.phase, want.phase) << step;
    EXPECT_EQ(got.step, want.step) << step;
    EXPECT_EQ(got.position, want.position) << step;
    EXPECT_EQ(curriculum.tokens_before(step), want.tokens_before) << step;
  }
  EXPECT_EQ(curriculum.tokens_before(5), 700);
}

}  // namespace
}  // namespace nestling
