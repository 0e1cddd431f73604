// The router: its gradients through the budget loss, its schedules, and the whole choices it ends in.
#include "model/router.h"

#include <cmath>
#include <gtest/gtest.h>

namespace nestling {
namespace {

ModelConfig parent() {
  ModelConfig c;
  c.pattern = "ME*E";
  c.vocab = 40;
  c.hidden = 64;
  c.query_heads = 6;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.mamba_heads = 12;
  c.mamba_head_dim = 16;
  c.state = 32;
  c.groups = 3;
  c.conv_kernel = 4;
  c.experts = 8;
  c.top_k = 2;
  c.expert_ffn = 64;
  c.shared_ffn = 32;
  c.validate("parent");
  return c;
}

WrittenWidth percent(double value) {
  return {.value = value, .percent = true};
}

ElasticSpace space() {
  return make_space(
      parent(),
      {{.axis = Axis::kHidden, .widths = {percent(100), percent(75), percent(50)}},
       {.axis = Axis::kMambaHeads, .widths = {percent(100), percent(50)}},
       {.axis = Axis::kExpertFfn, .widths = {percent(100), percent(75), percent(50), percent(25)}},
       {.axis = Axis::kLayers, .widths = {percent(100), {.value = 3}}}},
      kBlock, {0, 1, 2, 3});
}

// A task loss that likes some choices: sum over axes of sum_i t_i p_i^2.
double task(const Probabilities& p, Probabilities* dp) {
  double loss = 0;
  for (size_t a = 0; a < p.size(); ++a)
    for (size_t i = 0; i < p[a].size(); ++i) {
      const double t = 0.3 + 0.1 * static_cast<double>(a) - 0.2 * static_cast<double>(i);
      loss += t * p[a][i] * p[a][i];
      if (dp) (*dp)[a][i] += 2 * t * p[a][i];
    }
  return loss;
}

Probabilities zeros_like(const Probabilities& p) {
  Probabilities z = p;
  for (auto& axis : z) std::fill(axis.begin(), axis.end(), 0.0);
  return z;
}

class RouterGradient : public ::testing::TestWithParam<bool> {};

// The loss is in double, so a step of 2^-14 leaves 1e-16 / 2^-14 of rounding and 2^-28 of the third
// derivative; gradients are kept in f32. The step is short enough not to cross a kink of the ReLU.
TEST_P(RouterGradient, OfTheWholePathIsTheDifferenceQuotient) {
  const bool full = GetParam();
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  const double whole = cost(expected(full_widths(s.config)));
  Router router(s, 3, {.hidden = 8, .hard_share = 0.0}, 7);
  const std::vector<double> u =
      full ? std::vector<double>{1, 0, 0} : std::vector<double>{0, 0.4, 0.6};
  const SizeBudget budget{.cost = &cost, .allowed = full ? whole : 0.5 * whole, .full = full};
  const Router::Noise noise{.seed = 5, .step = 3, .micro_step = 1};
  const auto loss = [&](Probabilities* dp, RouterDraw* out) {
    RouterDraw d = router.draw(u, 0.3, &noise);
    Probabilities grad = zeros_like(d.used);
    const double value = task(d.used, &grad) + budget_loss(s, budget, 0.02, d.used, 1.0, grad).loss;
    if (dp) *dp = grad;
    if (out) *out = std::move(d);
    return value;
  };
  Probabilities dp;
  RouterDraw d;
  loss(&dp, &d);
  router.zero_gradients();
  router.backward(d, dp);
  constexpr double kStep = 1.0 / 16384;
  for (const Router::Parameter& p : router.parameters()) {
    double scale = 0;
    for (int64_t i = 0; i < p.grad.size(); ++i)
      scale = std::max(scale, std::abs(static_cast<double>(p.grad.ptr<float>()[i])));
    for (int64_t i = 0; i < p.weight.size(); ++i) {
      float& w = p.weight.ptr<float>()[i];
      const float kept = w;
      w = kept + static_cast<float>(kStep);
      const double up = w;
      const double above = loss(nullptr, nullptr);
      w = kept - static_cast<float>(kStep);
      const double quotient = (above - loss(nullptr, nullptr)) / (up - static_cast<double>(w));
      w = kept;
      EXPECT_NEAR(p.grad.ptr<float>()[i], quotient, 1e-5 * scale + 1e-9) << p.name << " " << i;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Sizes, RouterGradient, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "full" : "between"; });

TEST(Router, SchedulesAreFunctionsOfProgress) {
  const ElasticSpace s = space();
  const Router router(s, 2, {}, 1);
  EXPECT_DOUBLE_EQ(router.draw({1, 0}, 0.0, nullptr).tau, 1.0);
  EXPECT_DOUBLE_EQ(router.draw({1, 0}, 1.0, nullptr).tau, 0.05);
  EXPECT_NEAR(router.draw({1, 0}, 0.5, nullptr).tau, std::sqrt(0.05), 1e-12);
  EXPECT_DOUBLE_EQ(router.draw({1, 0}, 1.0, nullptr).scale, 10.0);
}

TEST(Router, DrawsAreFunctionsOfSeedStepAndMicroStep) {
  const ElasticSpace s = space();
  const Router router(s, 2, {.hard_share = 0.0}, 1);
  const Router::Noise a{1, 2, 3}, b{1, 2, 4};
  EXPECT_EQ(router.draw({0, 1}, 0.2, &a).used, router.draw({0, 1}, 0.2, &a).used);
  EXPECT_NE(router.draw({0, 1}, 0.2, &a).used, router.draw({0, 1}, 0.2, &b).used);
}

TEST(Router, HardDrawsAreOneHotsAndAsOftenAsAsked) {
  const ElasticSpace s = space();
  const Router router(s, 2, {.hard_share = 0.25}, 1);
  int hard = 0;
  for (int64_t step = 0; step < 2000; ++step) {
    const Router::Noise noise{9, step, 0};
    const RouterDraw d = router.draw({0, 1}, 0.2, &noise);
    const bool one_hot = *std::max_element(d.used[0].begin(), d.used[0].end()) == 1.0;
    hard += one_hot;
    if (!one_hot) {
      EXPECT_EQ(d.used, d.soft);
    }
  }
  EXPECT_NEAR(hard, 500, 4 * std::sqrt(2000 * 0.25 * 0.75));
}

// The Gumbel-max trick: whatever the temperature, the largest of a draw is choice i with probability
// softmax(z)_i. The other way round the noise would not do so, of three choices or more.
TEST(Router, TheLargestOfADrawIsAsOftenAsItsProbability) {
  const ElasticSpace s = space();
  const Router router(s, 2, {.hidden = 16, .init_std = 0.6, .hard_share = 0.0}, 1);
  constexpr int64_t kDraws = 4000;
  const Probabilities want = router.preferences({0, 1});
  Probabilities share = zeros_like(want);
  for (int64_t step = 0; step < kDraws; ++step) {
    const Router::Noise noise{9, step, 0};
    const RouterDraw d = router.draw({0, 1}, 0.0, &noise);
    for (size_t a = 0; a < d.soft.size(); ++a)
      share[a][static_cast<size_t>(std::max_element(d.soft[a].begin(), d.soft[a].end()) -
                                   d.soft[a].begin())] += 1.0 / kDraws;
  }
  for (size_t a = 0; a < want.size(); ++a)
    for (size_t i = 0; i < want[a].size(); ++i)
      EXPECT_NEAR(share[a][i], want[a][i], 4.5 * std::sqrt(want[a][i] * (1 - want[a][i]) / kDraws))
          << a << " " << i;
}

TEST(Router, AxesBeginWithWeightsOfTheirOwn) {
  const ElasticSpace s = space();
  const Router router(s, 2, {}, 1);
  EXPECT_NE(router.first(0).ptr<float>()[0], router.first(1).ptr<float>()[0]);
  EXPECT_NE(router.second(0).ptr<float>()[0], router.second(1).ptr<float>()[0]);
}

TEST(BudgetLoss, OfTheFullSizeHasNoDeadZone) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  Probabilities p = one_hot(s, {0, 0, 0, 0}), dp = zeros_like(p);
  p[0] = {0.99, 0.01, 0};
  const double whole = cost(expected(full_widths(s.config)));
  const double off = cost(expected_widths(s, p)) / whole - 1;
  ASSERT_LT(std::abs(off), 0.02);
  const BudgetLoss got =
      budget_loss(s, {.cost = &cost, .allowed = whole, .full = true}, 0.02, p, 1.0, dp);
  EXPECT_NEAR(got.loss, std::abs(off) + 10 * 2 * 1e-4 / 3, 1e-12);
}

TEST(BudgetLoss, IsZeroWithinTheDeadZoneAndRelativeOutside) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  const Probabilities p = one_hot(s, {1, 1, 2, 0});
  const double exact = cost(expected_widths(s, p));
  Probabilities dp = zeros_like(p);
  EXPECT_EQ(budget_loss(s, {.cost = &cost, .allowed = exact / 1.01}, 0.02, p, 1.0, dp).loss, 0.0);
  EXPECT_EQ(dp, zeros_like(p));
  EXPECT_NEAR(budget_loss(s, {.cost = &cost, .allowed = exact / 1.5}, 0.02, p, 1.0, dp).loss, 0.5,
              1e-12);
  EXPECT_NE(dp, zeros_like(p));
}

TEST(Feasible, KeepsTheBudgetAndTheLargestProbability) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  const double whole = cost(expected(full_widths(s.config)));
  Probabilities p = one_hot(s, {1, 0, 1, 0});
  const double wanted = cost(expected_widths(s, p));
  const Feasible exact = nearest_feasible(s, {.cost = &cost, .allowed = wanted}, 0.02, p);
  ASSERT_TRUE(exact.found);
  EXPECT_EQ(exact.selection, (Selection{1, 0, 1, 0}));
  const Feasible moved = nearest_feasible(s, {.cost = &cost, .allowed = 0.6 * whole}, 0.02, p);
  ASSERT_TRUE(moved.found);
  EXPECT_NEAR(moved.cost, 0.6 * whole, 0.02 * 0.6 * whole);
}

TEST(Feasible, MayCostALittleMoreThanTheBudget) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  const Probabilities p = one_hot(s, {1, 0, 1, 0});
  const double exact = cost(expected_widths(s, p));
  for (const double allowed : {exact / 1.019, exact / 0.981})
    EXPECT_EQ(nearest_feasible(s, {.cost = &cost, .allowed = allowed}, 0.02, p).selection,
              (Selection{1, 0, 1, 0}));
  EXPECT_NE(nearest_feasible(s, {.cost = &cost, .allowed = exact / 1.021}, 0.02, p).selection,
            (Selection{1, 0, 1, 0}));
}

TEST(Feasible, OfEqualOnesTheLowerIndices) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  Probabilities even = one_hot(s, {0, 0, 0, 0});
  for (auto& axis : even)
    std::fill(axis.begin(), axis.end(), 1.0 / static_cast<double>(axis.size()));
  const double whole = cost(expected(full_widths(s.config)));
  EXPECT_EQ(nearest_feasible(s, {.cost = &cost, .allowed = whole}, 1.0, even).selection,
            (Selection{0, 0, 0, 0}));
}

// What is over a budget of memory or latency does not fit, however probable and near.
TEST(Feasible, ALimitIsNeverExceeded) {
  const ElasticSpace s = space();
  CostTarget latency{.kind = CostKind::kLatency};
  for (auto& part : latency.latency.ns) part[static_cast<size_t>(LatencyRate::kWeight)] = 0.1;
  for (const CostTarget& target :
       {CostTarget{.kind = CostKind::kMemory, .memory = {.context = 16}}, latency}) {
    const CostFunction cost(s.config, target);
    const Probabilities p = one_hot(s, {1, 0, 1, 0});
    const double probable = cost(expected_widths(s, p));
    SizeBudget budget{.cost = &cost, .allowed = 0.99 * probable};
    EXPECT_EQ(nearest_feasible(s, budget, 0.1, p).cost, probable);
    budget.kind = target.kind;
    const Feasible fits = nearest_feasible(s, budget, 0.1, p);
    ASSERT_TRUE(fits.found);
    EXPECT_LE(fits.cost, budget.allowed);
    EXPECT_GE(fits.cost, 0.9 * budget.allowed);
    budget.allowed = probable;
    EXPECT_EQ(nearest_feasible(s, budget, 0.1, p).cost, probable);
  }
}

TEST(Feasible, NamesTheNearestTwoWhereNoneFits) {
  const ElasticSpace s = space();
  const CostFunction cost(s.config, {});
  const double whole = cost(expected(full_widths(s.config)));
  const Feasible none = nearest_feasible(s, {.cost = &cost, .allowed = 0.9999 * whole}, 1e-6,
                                         one_hot(s, {0, 0, 0, 0}));
  EXPECT_FALSE(none.found);
  EXPECT_EQ(none.nearest_above, whole);
  EXPECT_LT(none.nearest_below, whole);
  EXPECT_GT(none.nearest_below, 0.8 * whole);
}

TEST(Interpolation, LiesBetweenTheNeighbours) {
  const std::vector<double> costs{100, 75, 50};
  EXPECT_EQ(interpolated_input(costs, 75), (std::vector<double>{0, 1, 0}));
  EXPECT_EQ(interpolated_input(costs, 60), (std::vector<double>{0, 0.4, 0.6}));
  EXPECT_EQ(interpolated_input(costs, 200), (std::vector<double>{1, 0, 0}));
  EXPECT_EQ(interpolated_input(costs, 10), (std::vector<double>{0, 0, 1}));
}

}  // namespace
}  // namespace nestling
