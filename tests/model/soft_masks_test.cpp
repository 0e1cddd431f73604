// Soft masks: the gradient of the loss by every probability of every axis is its difference quotient.
#include <gtest/gtest.h>

#include "tests/support/masked_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// The gradient by a probability against differences of the loss.
//
// Step          the loss is smooth as long as the same experts are selected: the gate's bias sees to
//               that, and it is checked. Central differences at h, 2h and 4h are extrapolated twice
//               (Romberg); the truncation error is below what the second extrapolation moves.
//               No mask comes near zero: the parent's choice has at least 0.43, and 4h = 0.25.
// Noise         a loss is a mean over T tokens of numbers that are each rounded once, and whose
//               logits, about 1 apart, passed kProducts products: (kEps loss + kForwardBound) /
//               sqrt(T). A difference at h carries it over h, the extrapolation 1.7 times that:
//               (16 (4 + 1/2) / 3 + (4 / 2 + 1/4) / 3) / 15 = 1.65.
struct Difference {
  double value = 0;
  double bound = 0;
  bool smooth = true;
};
Difference difference(Model& model, OneDraw& masks, const Probabilities& p, size_t axis,
                      size_t choice, double h) {
  const BatchLoss base = model.loss(masks, p);
  Difference result;
  const auto at = [&](double step) {
    Probabilities moved = p;
    moved[axis][choice] += step;
    const BatchLoss b = model.loss(masks, moved);
    result.smooth = result.smooth && b.selected == base.selected;
    return b.loss;
  };
  const auto central = [&](double step) { return (at(step) - at(-step)) / (2 * step); };
  const double d1 = central(h), d2 = central(2 * h), d4 = central(4 * h);
  const double near = (4 * d1 - d2) / 3, far = (4 * d2 - d4) / 3;
  result.value = (16 * near - far) / 15;
  const double noise = (kEps * base.loss + kForwardBound) / std::sqrt(kBatchTokens);
  result.bound = 1.7 * noise / h + std::abs(near - far) / 15;
  return result;
}

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
  for (size_t a = 0; a < p.size(); ++a) {
    double largest = 0, largest_bound = 0;
    for (size_t i = 0; i < p[a].size(); ++i) {
      const Difference d = difference(model, masks, p, a, i, 1.0 / 16);
      EXPECT_TRUE(d.smooth) << "another expert was selected";
      EXPECT_NEAR(dp[a][i], d.value, d.bound)
          << axis_name(space.axes[a].axis) << " width " << space.axes[a].widths[i];
      largest = std::max(largest, std::abs(dp[a][i]));
      largest_bound = std::max(largest_bound, d.bound);
    }
    EXPECT_LT(largest_bound, 0.1 * largest)
        << axis_name(space.axes[a].axis) << ": the test would not see a wrong gradient";
  }
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
