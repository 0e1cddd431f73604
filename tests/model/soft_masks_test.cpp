// Soft masks: the gradient of the loss by every probability of every axis is its difference quotient.
#include <gtest/gtest.h>

#include "tests/support/soft_difference.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// Every token goes to the experts 0, 4 and 5, whatever the masks: those that all choices have, that
// the first two have, and that the first alone has.
void fix_selection(Model& model) {
  model.config.top_k = 3;
  for (int64_t i = 0; i < model.weights.count(); ++i)
    if (model.weights.specs()[static_cast<size_t>(i)].name.ends_with("e_score_correction_bias")) {
      auto* bias = model.weights.master(i).ptr<float>();
      bias[0] = 24;
      bias[4] = 16;
      bias[5] = 8;
    }
}

struct Soft {
  std::string name;
  ElasticSpace space;
};

class SoftGradient : public ::testing::TestWithParam<Soft> {};

TEST_P(SoftGradient, OfEveryProbabilityIsTheDifferenceOfTheLoss) {
  const ElasticSpace& space = GetParam().space;
  Model model;
  fix_selection(model);
  OneDraw masks(space, Device::kCpu);
  const Probabilities p = soft(space, 3);
  model.gradients(masks, p);
  Probabilities dp = zeros_like(p);
  masks.backward(dp);
  for (size_t a = 0; a < p.size(); ++a)
    expect_differences(model, masks, p, dp, a, axis_name(space.axes[a].axis));
}

std::vector<Soft> soft_cases() {
  std::vector<Soft> cases;
  for (const AxisChoices& c : whole_space().axes)
    cases.push_back(
        {str(axis_name(c.axis), c.layer >= 0 ? str("_layer", c.layer) : ""), space_of(c)});
  cases.push_back({"all", whole_space()});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Masks, SoftGradient, ::testing::ValuesIn(soft_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace nestling
