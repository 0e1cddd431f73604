#include "tools/bench/card_state.h"

#include <gtest/gtest.h>

#include "tests/tools/card_library.h"

namespace nestling::bench {
namespace {

using testing::unknown_functions;

constexpr const char* kAddress = "0000:1B:00.0";

TEST(CardState, IsWhatTheLibrarySays) {
  unknown_functions() = {};
  const std::optional<CardState> s = card_state(kAddress);
  ASSERT_TRUE(s);
  EXPECT_EQ(s->sm_clock_mhz, 1980);
  EXPECT_EQ(s->memory_clock_mhz, 3201);
  EXPECT_EQ(s->power_limit_w, 700);
  EXPECT_EQ(s->power_w, 71.5);
  EXPECT_EQ(s->temperature_c, 31);
  EXPECT_EQ(s->slowed_by, 4U);
}

TEST(CardState, OneFigureThatIsNotKnownTakesNoOtherAway) {
  unknown_functions() = {"memory clock", "power limit"};
  const std::optional<CardState> s = card_state(kAddress);
  ASSERT_TRUE(s);
  EXPECT_EQ(s->sm_clock_mhz, 1980);
  EXPECT_FALSE(s->memory_clock_mhz);
  EXPECT_FALSE(s->power_limit_w);
  EXPECT_EQ(s->power_w, 71.5);
  EXPECT_EQ(s->temperature_c, 31);
}

TEST(CardState, ReasonsHaveAnOlderName) {
  unknown_functions() = {"event reasons"};
  EXPECT_EQ(card_state(kAddress)->slowed_by, 1U);
  unknown_functions() = {"event reasons", "throttle reasons"};
  EXPECT_FALSE(card_state(kAddress)->slowed_by);
}

TEST(CardState, IsNothingOfACardThatIsNotThere) {
  EXPECT_FALSE(card_state("0000:FF:00.0"));
}

}  // namespace
}  // namespace nestling::bench
