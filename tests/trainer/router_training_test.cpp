// When a router's choices freeze, what its schedules and its noise depend on.
#include "trainer/router_training.h"

#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/latency_table.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "trainer/distill_step.h"

namespace nestling {
namespace {

RunConfig settings() {
  RunConfig c;
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.mamba_heads = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"total_params", "52%"}}}};
  c.router.hidden = 2;
  c.router.dead_zone = 0.2;
  c.router.freeze.agree_steps = 3;
  c.router.freeze.min_prob = 0.9;
  c.curriculum = {{.name = "one", .tokens = 6000, .global_batch_tokens = 100},
                  {.name = "two", .tokens = 4000, .global_batch_tokens = 100}};
  return c;
}

// A router whose weights the test writes.
struct HandMade {
  RunConfig config;
  ElasticSpace space;
  RouterTraining router;

  explicit HandMade(const RunConfig& c = settings())
      : config(c),
        space(make_space(testing::tiny_config(60), written_choices(c.elastic.choices), kBlock, {})),
        router(space, config) {
    prefer(0, 0, 20);
    prefer(1, 1, 20);
  }
  // Size `size` takes `choice` of both axes with probability 1 / (1 + e^-margin), at temperature 1.
  void prefer(int64_t size, int64_t choice, float margin) {
    for (const NamedState& s : router.state()) {
      if (s.name.ends_with("/first"))  // the unit of its number listens to a size
        for (int64_t unit = 0; unit < 2; ++unit)
          s.view.ptr<float>()[unit * 2 + size] = unit == size ? 1.0f : 0.0f;
      if (s.name.ends_with("/second"))
        for (int64_t i = 0; i < 2; ++i)
          s.view.ptr<float>()[i * 2 + size] = i == choice ? margin : 0.0f;
    }
  }
  int settled(int calls, int64_t tokens = 0) {
    for (int i = 1; i <= calls; ++i)
      if (router.settle(tokens)) return i;
    return 0;
  }
};

// The first call sees other choices than those before it, which were none.
TEST(RouterFreeze, AfterAsManyStepsOfTheSameChoicesAsAsked) {
  HandMade r;
  EXPECT_EQ(r.settled(10), 4);
  EXPECT_TRUE(r.router.frozen());
  EXPECT_EQ(r.router.selections(), (std::vector<Selection>{{0, 0}, {1, 1}}));
  EXPECT_FALSE(r.router.settle(0));
}

TEST(RouterFreeze, AnotherChoiceBeginsTheCountAnew) {
  HandMade r;
  EXPECT_EQ(r.settled(3), 0);  // two that agree
  r.prefer(1, 0, 20);
  EXPECT_EQ(r.settled(1), 0);
  r.prefer(1, 1, 20);
  EXPECT_EQ(r.settled(10), 4);
}

// e^2 / (1 + e^2) = 0.881 and e^2.3 / (1 + e^2.3) = 0.909, of whichever size.
TEST(RouterFreeze, NeedsTheLeastProbabilityOfEverySize) {
  for (const int64_t unsure : {0, 1}) {
    HandMade r;
    r.prefer(unsure, unsure, 2.0f);
    EXPECT_EQ(r.settled(20), 0) << unsure;
    EXPECT_NEAR(r.router.probability(unsure, 0), 1 / (1 + std::exp(-2.0)), 1e-6);
    r.prefer(unsure, unsure, 2.3f);
    EXPECT_EQ(r.settled(10), 3) << unsure;
  }
}

TEST(RouterFreeze, AtTheTokensAskedForWhateverIsChosen) {
  RunConfig c = settings();
  c.router.freeze.at_tokens = 500;
  HandMade r(c);
  r.prefer(1, 0, 0.1f);
  EXPECT_FALSE(r.router.settle(499));
  EXPECT_TRUE(r.router.settle(500));
  // What is preferred costs too much: the next best combination that costs what it may.
  EXPECT_NE(r.router.selections()[1], (Selection{0, 0}));
}

// 4 layers of 3 microseconds: 0.012 ms, whatever is cut of them but layers.
TEST(RouterFreeze, ALatencyIsALimit) {
  const testing::TempDir dir;
  LatencyTable table{.model = "m",
                     .config = testing::tiny_config(60),
                     .machine = {{"device", "cpu"}},
                     .terms = {.measured_on = "a machine"},
                     .least = {{Axis::kHidden, 16}, {Axis::kMambaHeads, 2}, {Axis::kLayers, 1}},
                     .points = {},
                     .sizes = {}};
  for (size_t part = 0; part + 1 < kLatencyParts.size(); ++part) table.terms.ns[part][0] = 3000;
  const std::string file = dir.path() / "p.json";
  write_json(file, latency_json(table));
  RunConfig c = settings();
  c.elastic.sizes[1].target = {{"latency_ms", "0.0118"}, {"profile", file}};
  testing::expect_error([&] { HandMade r(c); },
                        {"'half'", "costs 0.0118 or less", "the nearest cost 0 and 0.012"});
  c.elastic.sizes[1].target[0].value = "0.0121";  // 0.012 is within the dead zone below
  HandMade r(c);
  EXPECT_EQ(r.router.budget(1).kind, CostKind::kLatency);
  r.router.freeze_now();
  EXPECT_EQ(r.router.selections()[1], (Selection{1, 1}));
  table.config.state *= 2;
  write_json(file, latency_json(table));
  testing::expect_error([&] { HandMade again(c); },
                        {"'half'", "another architecture: state 16, the parent has 8"});
}

TEST(RouterFreeze, CountsOnFromTheStateOfAnother) {
  HandMade first, second;
  EXPECT_EQ(first.settled(3), 0);
  const auto from = first.router.state(), to = second.router.state();
  for (size_t i = 0; i < from.size(); ++i) copy(to[i].view, from[i].view);
  second.router.restored();
  EXPECT_EQ(second.settled(10), 1);
}

// Of the combinations within the budget the one that the router likes best, not the first.
TEST(RouterFreeze, TakesTheFeasibleCombinationOfTheLargestProbability) {
  RunConfig c = settings();
  c.router.dead_zone = 0.9;  // all but the parent's cost
  c.router.freeze.at_tokens = 1;
  for (const Selection& liked : std::vector<Selection>{{0, 1}, {1, 0}, {1, 1}}) {
    HandMade r(c);
    size_t axis = 0;
    for (const NamedState& s : r.router.state())
      if (s.name.ends_with("/second")) {
        for (int64_t i = 0; i < 2; ++i)
          s.view.ptr<float>()[i * 2 + 1] = i == liked[axis] ? 5.0f : 0.0f;
        ++axis;
      }
    EXPECT_TRUE(r.router.settle(1));
    EXPECT_EQ(r.router.selections()[1], liked);
  }
}

TEST(RouterSchedule, RunsOverTheCurriculumOrTheTokensAskedFor) {
  RunConfig c = settings();
  c.router.tau = {1.0, 0.01};
  const HandMade whole(c);
  EXPECT_DOUBLE_EQ(whole.router.plain(0, 0).tau, 1.0);
  EXPECT_NEAR(whole.router.plain(0, 5000).tau, 0.1, 1e-12);
  EXPECT_NEAR(whole.router.plain(0, 10000).tau, 0.01, 1e-12);
  EXPECT_NEAR(whole.router.plain(0, 20000).tau, 0.01, 1e-12);
  EXPECT_NEAR(whole.router.plain(0, 20000).scale, 10, 1e-12);
  c.router.schedule_tokens = 2000;
  const HandMade half(c);
  EXPECT_NEAR(half.router.plain(0, 1000).tau, 0.1, 1e-12);
  EXPECT_NEAR(half.router.plain(0, 2000).tau, 0.01, 1e-12);
}

// Gumbel noise of the first axis' two choices, as far as probabilities tell it: g1 - g0.
double noise_of(const HandMade& r, int64_t size, const DrawKey& key) {
  const RouterDraw drawn = r.router.draw(size, key), plain = r.router.plain(size, key.tokens);
  return drawn.tau * (std::log(drawn.soft[0][1] / drawn.soft[0][0]) -
                      std::log(plain.soft[0][1] / plain.soft[0][0]));
}

TEST(RouterNoise, IsAnotherForEverySizeStepAndMicroStep) {
  HandMade r;
  r.prefer(0, 0, 1);
  r.prefer(1, 1, 1);
  const DrawKey key{.tokens = 0, .step = 3, .micro_step = 2};
  const double here = noise_of(r, 0, key);
  EXPECT_EQ(here, noise_of(r, 0, key));
  EXPECT_GT(std::abs(here - noise_of(r, 1, key)), 1e-6);
  EXPECT_GT(std::abs(here - noise_of(r, 0, {.tokens = 0, .step = 4, .micro_step = 2})), 1e-6);
  EXPECT_GT(std::abs(here - noise_of(r, 0, {.tokens = 0, .step = 3, .micro_step = 1})), 1e-6);
}

// The difference of two Gumbel numbers is logistic: its magnitude has mean 2 ln 2 and variance
// pi^2 / 3 - (2 ln 2)^2 = 1.37.
TEST(RouterNoise, IsAsWideAsGumbels) {
  HandMade r;
  r.prefer(0, 0, 0);
  constexpr int64_t kDraws = 4000;
  double size = 0;
  for (int64_t step = 0; step < kDraws; ++step)
    size += std::abs(noise_of(r, 0, {.tokens = 0, .step = step, .micro_step = 0})) / kDraws;
  EXPECT_NEAR(size, 2 * std::log(2.0), 4 * std::sqrt(1.37 / kDraws));
}

}  // namespace
}  // namespace nestling
