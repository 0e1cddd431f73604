// Budgets between the sizes: met, named, refused; and the router that a file keeps answers as the one
// that was trained.
#include "model/asked_size.h"

#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::tiny_reasoner_model;

double cost_of(const ElasticModel& m, const Size& s) {
  const CostFunction cost(m.config, s.target);
  return cost(expected(s.widths)) / cost(expected(full_widths(m.config)));
}

Size ask(const ElasticModel& m, const std::string& text) {
  return asked_size(m.config, m.sizes, m.router, text, "e.h5");
}

std::string digits(double x) {
  std::ostringstream text;
  text.precision(17);
  text << x;
  return text.str();
}
std::string percent(double share) {
  return digits(100 * share) + "%";
}

TEST(AskedSize, ASweepOfBudgetsIsMet) {
  const ElasticModel m = tiny_reasoner_model();
  const double least = m.sizes.back().budget;
  constexpr int kBudgets = 101;
  int trained = 0, falls = 0;
  double worst = 0, last = 0;
  for (int i = 0; i < kBudgets; ++i) {
    const double budget = least + (1 - least) * i / (kBudgets - 1);
    const Size s = ask(m, percent(budget));
    const double cost = cost_of(m, s);
    EXPECT_LE(std::abs(cost / budget - 1), kAskedTolerance) << i << ": " << budget;
    EXPECT_NEAR(s.budget, budget, kSameBudget * budget);
    worst = std::max(worst, std::abs(cost / budget - 1));
    falls += cost < last;
    last = cost;
    trained += s.trained;
  }
  EXPECT_EQ(trained, 2);  // the ends
  std::printf(
      "%d budgets from %.3f to 1: off by at most %.4f; %d cost less than the "
      "budget before\n",
      kBudgets, least, worst, falls);
}

TEST(AskedSize, ABudgetOfATrainedSizeIsThatSize) {
  const ElasticModel m = tiny_reasoner_model();
  const CostFunction cost(m.config, {});
  for (const Size& s : m.sizes) {
    for (const std::string& text : {percent(s.budget), digits(cost(expected(s.widths)))}) {
      const Size got = ask(m, text);
      EXPECT_EQ(got.name, s.name) << text;
      EXPECT_EQ(got.widths, s.widths) << text;
      EXPECT_TRUE(got.trained) << text;
    }
  }
}

TEST(AskedSize, AbsoluteAndRelativeAreOne) {
  const ElasticModel m = tiny_reasoner_model();
  const double whole = CostFunction(m.config, {})(expected(full_widths(m.config)));
  const Size relative = ask(m, "85%");
  const Size absolute = ask(m, str(0.85 * whole / 1e6, "e6"));
  EXPECT_EQ(relative.widths, absolute.widths);
  EXPECT_EQ(relative.name, "85%");
  EXPECT_FALSE(relative.trained);
  EXPECT_FALSE(absolute.trained);
}

TEST(AskedSize, WhatCannotBeAskedIsRefused) {
  ElasticModel m = tiny_reasoner_model();
  const auto refused = [&](const char* text, std::initializer_list<const char*> parts) {
    expect_error([&] { ask(m, text); }, parts);
  };
  refused("30B", {"e.h5", "30B", "100%, 75%, 50%", "any budget"});
  refused("10%", {"e.h5", "'10%'", "active_params", "reach from", "(50%", "(100%"});
  refused("101%", {"101%", "reach from"});
  refused("1e12", {"1e12", "reach from"});
  refused("-3%", {"no size '-3%'"});
  m.sizes[2].target.kind = CostKind::kTotal;
  refused("85%", {"75% was given in active_params", "50% in total_params", "one kind"});
  m.sizes[1].target = m.sizes[2].target = {.kind = CostKind::kMemory, .memory = {.context = 8}};
  m.sizes[2].target.memory.context = 9;
  refused("85%", {"context 8", "context 9", "one kind"});
  m.sizes[1].target = m.sizes[2].target = {.kind = CostKind::kLatency,
                                           .latency = {.measured_on = "this", .context = 8}};
  m.sizes[2].target.latency.measured_on = "that";
  refused("85%", {"latency_ms (context 8, batch 1, on this)", "on that", "one kind"});
  m = tiny_reasoner_model();
  m.sizes[1].budget = m.sizes[2].budget;
  refused("85%", {"size 50%", "no smaller budget than 75%"});
  m.router = {};
  refused("85%", {"no size '85%'", "no router"});
}

// Of a latency in milliseconds, by the rates in the file alone; what is over the budget is not taken.
TEST(AskedSize, ALatencyIsMetFromBelow) {
  ElasticModel m = tiny_reasoner_model();
  CostTarget target{.kind = CostKind::kLatency};
  for (auto& part : target.latency.ns) part = {2000, 0.2, 0, 0.1};
  for (Size& s : m.sizes) s = testing::make_size(m.config, s.name, s.widths, target);
  const double whole = CostFunction(m.config, target)(expected(full_widths(m.config)));
  const double least = m.sizes.back().budget;
  for (int i = 1; i < 20; ++i) {
    const double budget = least + (1 - least) * i / 20;
    const Size s = ask(m, percent(budget));
    EXPECT_LE(cost_of(m, s), budget * (1 + kSameBudget)) << budget;
    EXPECT_GE(cost_of(m, s), budget * (1 - kAskedTolerance)) << budget;
    EXPECT_EQ(ask(m, digits(budget * whole)).widths, s.widths);
    EXPECT_EQ(s.target.latency, target.latency);
  }
  expect_error([&] { ask(m, digits(0.9 * least * whole)); },
               {"latency_ms (context 1", "reach from"});
}

// With one axis of two choices nothing is near 80%.
TEST(AskedSize, WhereNoCombinationIsNearTheNearestTwoAreNamed) {
  ElasticModel m = tiny_reasoner_model();
  m.sizes.erase(m.sizes.begin() + 1);
  m.sizes[1] = testing::make_size(m.config, "s", testing::cut_by(m.config, {{Axis::kHidden, 96}}));
  m.router = testing::random_router(m.config, {{Axis::kHidden, {160, 96}}}, 2, 3);
  expect_error([&] { ask(m, "80%"); }, {"'80%'", "within 5%", "the nearest cost"});
}

TEST(RouterRecord, TheRecordedRouterAnswersAsTheOneThatWasTrained) {
  const ElasticModel m = tiny_reasoner_model();
  const RecordedRouter once = recorded_router(m.config, 3, m.router, "r");
  EXPECT_EQ(record_router(once.router).tensors, m.router.tensors);
  EXPECT_EQ(record_router(once.router).json, m.router.json);
  // A draw is softmax(scale z / tau): its log ratios are those of the preferences, scaled.
  const std::vector<double> u{0, 0.4, 0.6};
  const Probabilities p = once.router.preferences(u);
  const RouterDraw d = once.router.draw(u, 0.3, nullptr);
  for (size_t a = 0; a < p.size(); ++a)
    for (size_t i = 1; i < p[a].size(); ++i)
      EXPECT_NEAR(std::log(d.soft[a][i] / d.soft[a][0]) * d.tau / d.scale,
                  std::log(p[a][i] / p[a][0]), 1e-12);
}

TEST(RouterRecord, KeepsTheOrderInWhichLayersGo) {
  const ModelConfig config = tiny_reasoner_model().config;
  std::vector<int64_t> order;
  for (int64_t l = config.layers(); l-- > 0;) order.push_back(l);
  const auto width = [](int64_t n) { return WrittenWidth{.value = static_cast<double>(n)}; };
  const ElasticSpace space = make_space(
      config,
      {{.axis = Axis::kLayers, .widths = {width(config.layers()), width(config.layers() - 2)}}},
      kBlock, order);
  const RouterBlob blob = record_router(Router(space, 2, {.hidden = 4}, 1));
  EXPECT_EQ(recorded_router(config, 2, blob, "r").space->layer_order, order);
}

TEST(RouterRecord, WhatDoesNotFitIsRefused) {
  const ElasticModel good = tiny_reasoner_model();
  const auto refused = [&](RouterBlob blob, std::initializer_list<const char*> parts) {
    expect_error([&] { recorded_router(good.config, 3, blob, "e.h5: /router"); }, parts);
  };
  const auto with = [&](const char* key, const Json& value) {
    Json json = parse_json(good.router.json, "r").json();
    json[key] = value;
    RouterBlob blob = good.router;
    blob.json = json.dump();
    return blob;
  };
  refused(with("hidden", 17), {"/router", "first", "17 x 3"});
  refused(with("hidden", int64_t{1} << 60), {"/router", "first"});
  refused(with("hidden", 0), {"hidden", "1 or more"});
  refused(with("tau", {1.0, 0.0}), {"tau", "positive"});
  refused(with("dead_zone", 2), {"dead_zone", "[0, 1]"});
  refused(with("choices", Json::array()), {"10 tensors", "0 axes"});
  refused(with("choices", {{{"axis", "hidden"}, {"layer", nullptr}, {"widths", {160, 90}}}}),
          {"hidden", "90"});
  refused(with("choices", {{{"axis", "height"}, {"widths", {160, 96}}}}), {"height"});
  refused(with("layer_order", {0, 0}), {"layer_order", "once"});
  RouterBlob short_of = good.router;
  short_of.tensors.erase("hidden.second");
  refused(short_of, {"hidden.second", "missing"});
  RouterBlob wild = good.router;
  wild.tensors["hidden.first"][2] = std::nanf("");
  refused(wild, {"hidden.first", "not finite"});
  ElasticModel m = good;
  m.router.json = "{}";
  expect_error([&] { check_elastic_model(m, "e.h5"); }, {"e.h5: /router", "hidden"});
}

}  // namespace
}  // namespace nestling
