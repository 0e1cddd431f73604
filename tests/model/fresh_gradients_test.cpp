// The first backward of a step writes gradients instead of adding to zeros: the same bits, whatever was there before.
#include <cmath>
#include <gtest/gtest.h>

#include "tests/support/masked_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

ModelConfig config_of(bool tied) {
  ModelConfig c = elastic_config();
  c.tied = tied;
  return c;
}

// Every gradient of one batch, those that products make on top of NaN if `fresh`.
std::vector<std::vector<float>> gradients(Weights& weights, const ModelConfig& config, bool fresh,
                                          OneDraw* masks = nullptr) {
  weights.zero_gradients();
  if (fresh) {
    for (int64_t i = 0; i < weights.count(); ++i)
      if (const View g = weights.grad(i)) std::fill_n(g.ptr<float>(), g.size(), NAN);
    weights.zero_gradients_beside_products();
  }
  const auto g = weights.grads();
  batch_loss(config, weights.params(), &g, masks ? &masks->masks() : nullptr,
             masks ? &masks->grads() : nullptr, false, fresh);
  std::vector<std::vector<float>> all;
  for (int64_t i = 0; i < weights.count(); ++i)
    if (const View view = weights.grad(i))
      all.emplace_back(view.ptr<float>(), view.ptr<float>() + view.size());
  return all;
}

class FreshGradients : public ::testing::TestWithParam<bool> {};

TEST_P(FreshGradients, OfAPlainModelAreTheSameBits) {
  const ModelConfig config = config_of(GetParam());
  Weights weights(config, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  initialize(weights, 9);
  EXPECT_EQ(gradients(weights, config, true), gradients(weights, config, false));
}

TEST_P(FreshGradients, UnderMasksAreTheSameBits) {
  ElasticSpace space = whole_space();
  space.config = config_of(GetParam());
  Weights weights(space.config, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  initialize(weights, 9);
  OneDraw masks(space, Device::kCpu);
  masks.set(soft(space, 4));
  const auto want = gradients(weights, space.config, false, &masks);
  EXPECT_EQ(gradients(weights, space.config, true, &masks), want);
}

INSTANTIATE_TEST_SUITE_P(All, FreshGradients, ::testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "tied" : "untied");
});

// All gradients are one range, and what no product makes is the end of it.
TEST(Gradients, WhatNoProductMakesIsZeroedAlone) {
  const ModelConfig config = config_of(false);
  Weights weights(config, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  const View all = weights.flat_gradients();
  std::fill_n(all.ptr<float>(), all.size(), 1.0f);
  weights.zero_gradients_beside_products();
  int64_t kept = 0;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const View g = weights.grad(i);
    if (!g) continue;
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    const float want = spec.gradient_by_product ? 1.0f : 0.0f;
    for (int64_t k = 0; k < g.size(); ++k) ASSERT_EQ(g.ptr<float>()[k], want) << spec.name;
    kept += spec.gradient_by_product ? 1 : 0;
  }
  EXPECT_GT(kept, 10);
}

}  // namespace
}  // namespace nestling
