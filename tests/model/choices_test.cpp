// Choices, the widths they stand for, and what those cost.
#include "model/choices.h"

#include <gtest/gtest.h>

#include "kernels/core/rng.h"
#include "model/cost.h"
#include "model/weights.h"
#include "tests/support/family_models.h"

namespace nestling {
namespace {

ModelConfig parent() {
  ModelConfig c;
  c.pattern = "ME*-E";
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
  c.ffn = 96;
  c.experts = 8;
  c.top_k = 2;
  c.expert_ffn = 48;
  c.shared_ffn = 32;
  c.validate("parent");
  return c;
}

WrittenWidth percent(double value) {
  return {.value = value, .percent = true};
}

std::vector<WrittenChoices> all_axes() {
  return {{.axis = Axis::kHidden, .widths = {percent(100), percent(50)}},
          {.axis = Axis::kMambaHeads, .widths = {percent(100), percent(75), percent(50)}},
          {.axis = Axis::kMambaChannels, .widths = {percent(100)}},
          {.axis = Axis::kState, .widths = {percent(100), percent(50)}},
          {.axis = Axis::kQueryHeads, .widths = {{.value = 6}, {.value = 2}}},
          {.axis = Axis::kFfn, .widths = {percent(100), {.value = 32}}},
          {.axis = Axis::kExperts, .widths = {percent(100), percent(50)}},
          {.axis = Axis::kExpertFfn, .widths = {{.value = 48}, {.value = 32}, {.value = 16}}},
          {.axis = Axis::kSharedFfn, .widths = {percent(100), percent(50)}},
          {.axis = Axis::kLayers, .widths = {percent(100), {.value = 4}}}};
}

ElasticSpace space() {
  return make_space(parent(), all_axes(), kBlock, {2, 0, 1, 4, 3});
}

std::string refusal(const std::vector<WrittenChoices>& written, int64_t multiple_of = kBlock) {
  try {
    make_space(parent(), written, multiple_of, {});
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Choices, IndexZeroIsTheParent) {
  const ElasticSpace s = space();
  EXPECT_EQ(s.axes.size(), 9u);  // mamba_channels has one choice: it is no axis of the space
  EXPECT_EQ(widths_of(s, Selection(s.axes.size(), 0)), full_widths(parent()));
}

TEST(Choices, SelectsWidthsInEveryLayerThatHasTheAxis) {
  const Widths w = widths_of(space(), {1, 2, 1, 1, 1, 1, 2, 1, 1});
  EXPECT_EQ(w.hidden, 32);
  EXPECT_EQ(w.layers[0].mamba_heads, 6);
  EXPECT_EQ(w.layers[0].state, 16);
  EXPECT_EQ(w.layers[2].query_heads, 2);
  EXPECT_EQ(w.layers[3].ffn, 32);
  EXPECT_EQ(w.layers[1].expert_ffn, 16);
  EXPECT_EQ(w.layers[4].expert_ffn, 16);
  EXPECT_EQ(w.layers[4].experts, 4);
  EXPECT_EQ(w.layers[4].kept, 1);
  EXPECT_EQ(w.layers[3].kept, 0);  // the last of the order
}

TEST(Choices, RefusesWhatBreaksAGroupABlockOrAKvHeadWithTheNearestGoodWidth) {
  const auto says = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  using W = std::vector<WrittenChoices>;
  EXPECT_PRED2(says,
               refusal(W{{.axis = Axis::kMambaHeads, .widths = {{.value = 12}, {.value = 8}}}}),
               "nearest good one is 9");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kQueryHeads, .widths = {percent(100), percent(50)}}}),
               "nearest good one is 2");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kHidden, .widths = {percent(100), percent(70)}}}),
               "nearest good one is 48");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kHidden, .widths = {percent(100), percent(75)}}}, 32),
               "in steps of 32");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kExperts, .widths = {percent(100), {.value = 1}}}}),
               "nearest good one is 2");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kFfn, .widths = {percent(50), percent(100)}}}),
               "first choice must be the parent's");
  EXPECT_PRED2(says,
               refusal(W{{.axis = Axis::kExpertFfn, .widths = {{.value = 48}, {.value = 48}}}}),
               "must fall");
  EXPECT_PRED2(says, refusal(W{{.axis = Axis::kLayers, .widths = {percent(100), {.value = 4}}}}),
               "importance of every layer");
}

// What transformers would refuse of a cut is known from the lists.
TEST(Choices, SayWhichWidthsCouldNotBePublished) {
  const auto said = [](const ModelConfig& c, const std::vector<AxisChoices>& axes) {
    return unpublished_widths({.config = c, .axes = axes, .layer_order = {}});
  };
  const AxisChoices hidden{.axis = Axis::kHidden, .widths = {32, 16}};
  const ModelConfig llama = testing::llama_config(), granite = testing::granite_config();
  EXPECT_EQ(said(llama, {hidden, {.axis = Axis::kQueryHeads, .widths = {8, 4}}}), "");
  const std::string heads = said(llama, {hidden, {.axis = Axis::kQueryHeads, .widths = {8, 6}}});
  EXPECT_NE(heads.find("hidden width of 32 with 6 query heads"), std::string::npos) << heads;
  EXPECT_EQ(said(granite, {hidden, {.axis = Axis::kMambaHeads, .widths = {8, 4}}}), "");
  const std::string mamba = said(granite, {{.axis = Axis::kMambaHeads, .widths = {8, 2}}});
  EXPECT_NE(mamba.find("16 channels with a hidden width of 32"), std::string::npos) << mamba;
  EXPECT_EQ(said(parent(), {{.axis = Axis::kQueryHeads, .widths = {6, 4}}}), "");
}

TEST(Choices, RefusesAMultipleThatCannotHold) {
  const auto refusal_of = [](int64_t hidden, double to, int64_t multiple_of) -> std::string {
    ModelConfig c = parent();
    c.hidden = hidden;
    try {
      make_space(c, {{.axis = Axis::kHidden, .widths = {percent(100), {.value = to}}}}, multiple_of,
                 {});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(refusal_of(40, 30, kBlock), "");  // no multiple of kBlock: cut anywhere
  EXPECT_EQ(refusal_of(96, 32, 32), "");
  const auto says = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_PRED2(says, refusal_of(40, 30, 32),
               "hidden: multiple_of 32 cannot hold in the parent's width of 40");
  EXPECT_PRED2(says, refusal_of(48, 32, 64),
               "hidden: multiple_of 64 cannot hold in the parent's width of 48");
}

TEST(Cost, IsThatOfTheModelCutOut) {
  const ElasticSpace s = space();
  Rng rng(3);
  for (int trial = 0; trial < 50; ++trial) {
    Selection pick;
    for (const AxisChoices& c : s.axes)
      pick.push_back(static_cast<int64_t>(rng.below(c.widths.size())));
    const Widths widths = widths_of(s, pick);
    const ModelConfig small = cut_config(s.config, widths);
    const ParameterCost c = parameter_cost(s.config, widths);
    EXPECT_EQ(c.total, Weights(small, Device::kNull, {}).parameter_count());
    EXPECT_EQ(c.active, parameter_cost(small).active);
  }
}

TEST(Cost, MemoryIsWeightsPlusWhatDecodingKeeps) {
  const ModelConfig c = parent();
  const MemoryTerms terms{.weight_bytes = 2, .context = 100, .batch = 3, .cache_bytes = 4};
  const double bytes =
      CostFunction(c, {.kind = CostKind::kMemory, .memory = terms})(expected(full_widths(c)));
  const double caches = 3.0 * 4 * (100 * 2 * 2 * 8 + 12 * 16 * 32 + 3 * (12 * 16 + 2 * 3 * 32));
  EXPECT_EQ(bytes, 2.0 * static_cast<double>(parameter_cost(c).total) + caches);
}

// Every rate of every part counts what cost.h says that it does, and nothing else.
TEST(Cost, LatencyIsASumOfRatesTimesWhatIsCounted) {
  const ModelConfig c = parent();
  Widths w = full_widths(c);
  w.hidden = 48;
  w.layers[1].experts = 4;
  w.layers[1].expert_ffn = 32;
  w.layers[4].kept = 0;  // the other MoE layer
  const auto one = [&](LatencyPart part, LatencyRate rate) {
    CostTarget target{.kind = CostKind::kLatency, .latency = {.context = 10, .batch = 3}};
    target.latency.rate(part, rate) = 1;
    return 1e6 * CostFunction(c, target)(expected(w));
  };
  const auto active = [&](int64_t layer) {
    Widths without = w;
    without.layers[static_cast<size_t>(layer)].kept = 0;
    return static_cast<double>(parameter_cost(c, w).active - parameter_cost(c, without).active);
  };
  using Part = LatencyPart;
  using Rate = LatencyRate;
  for (const Part part : {Part::kMamba, Part::kAttention, Part::kDense, Part::kMoe, Part::kRest})
    EXPECT_DOUBLE_EQ(one(part, Rate::kLayer), 1);
  EXPECT_DOUBLE_EQ(one(Part::kMamba, Rate::kWeight), active(0));
  EXPECT_DOUBLE_EQ(one(Part::kMoe, Rate::kWeight), active(1));
  EXPECT_DOUBLE_EQ(one(Part::kAttention, Rate::kWeight), active(2));
  EXPECT_DOUBLE_EQ(one(Part::kDense, Rate::kWeight), active(3));
  EXPECT_DOUBLE_EQ(one(Part::kRest, Rate::kWeight), 40 * 48);
  EXPECT_DOUBLE_EQ(one(Part::kMoe, Rate::kExpert), 4 * 2 * 32 * 48);
  EXPECT_DOUBLE_EQ(one(Part::kMamba, Rate::kState), 3 * 12 * 16 * 32);
  EXPECT_DOUBLE_EQ(one(Part::kAttention, Rate::kState), 3 * 2 * 10 * 6 * 8);
  for (const Part part : {Part::kMamba, Part::kAttention, Part::kDense, Part::kRest})
    EXPECT_EQ(one(part, Rate::kExpert), 0);
  for (const Part part : {Part::kDense, Part::kMoe, Part::kRest})
    EXPECT_EQ(one(part, Rate::kState), 0);
}

// The cost is linear in each probability, so central differences are exact but for rounding.
TEST(Cost, GradientByProbabilitiesIsTheDifferenceQuotient) {
  const ElasticSpace s = space();
  Probabilities p;
  for (const AxisChoices& c : s.axes)
    p.emplace_back(c.widths.size(), 1.0 / static_cast<double>(c.widths.size()));
  LatencyTerms latency{.context = 512, .batch = 2};
  double ns = 1e6;
  for (auto& part : latency.ns)
    for (double& rate : part) rate = ns *= 0.9;
  for (const CostKind kind :
       {CostKind::kTotal, CostKind::kActive, CostKind::kMemory, CostKind::kLatency}) {
    const CostFunction cost(
        s.config, {.kind = kind, .memory = {.context = 512, .batch = 2}, .latency = latency});
    ExpectedWidths gradient;
    cost(expected_widths(s, p), &gradient);
    Probabilities dp = p;
    for (auto& axis : dp) std::fill(axis.begin(), axis.end(), 0.0);
    expected_widths_backward(s, gradient, dp);
    for (size_t a = 0; a < p.size(); ++a)
      for (size_t i = 0; i < p[a].size(); ++i) {
        const auto at = [&](double step) {
          Probabilities moved = p;
          moved[a][i] += step;
          return cost(expected_widths(s, moved));
        };
        const double quotient = (at(0.5) - at(-0.5));
        EXPECT_NEAR(dp[a][i], quotient, 1e-9 * std::abs(quotient) + 1e-6)
            << axis_name(s.axes[a].axis) << " choice " << i;
      }
  }
}

}  // namespace
}  // namespace nestling
