// soft_difference.h - the gradient by the probability of a width against differences of the loss.
//
// Step          the loss is smooth as long as the same experts are selected: the caller sees to
//               that, and it is checked. Central differences at h, 2h and 4h are extrapolated twice
//               (Romberg); the truncation error is below what the second extrapolation moves.
//               No mask comes near zero: the parent's choice has at least 0.43, and 4h = 0.25.
// Noise         a loss is a mean over T tokens of numbers that are each rounded once, and whose
//               logits, about 1 apart, passed kProducts products: (kEps loss + kForwardBound) /
//               sqrt(T). A difference at h carries it over h, the extrapolation 1.7 times that:
//               (16 (4 + 1/2) / 3 + (4 / 2 + 1/4) / 3) / 15 = 1.65.
#pragma once
#include <gtest/gtest.h>

#include "tests/support/masked_model.h"

namespace nestling::testing {

struct Difference {
  double value = 0;
  double bound = 0;
  bool smooth = true;
};
inline Difference difference(Model& model, OneDraw& masks, const Probabilities& p, size_t axis,
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

// dp[axis] against the differences of every probability of that axis.
inline void expect_differences(Model& model, OneDraw& masks, const Probabilities& p,
                               const Probabilities& dp, size_t axis, const std::string& name) {
  double largest = 0, largest_bound = 0;
  for (size_t i = 0; i < p[axis].size(); ++i) {
    const Difference d = difference(model, masks, p, axis, i, 1.0 / 16);
    EXPECT_TRUE(d.smooth) << "another expert was selected";
    EXPECT_NEAR(dp[axis][i], d.value, d.bound) << name << ", choice " << i;
    largest = std::max(largest, std::abs(dp[axis][i]));
    largest_bound = std::max(largest_bound, d.bound);
  }
  EXPECT_LT(largest_bound, 0.1 * largest) << name << ": the test would not see a wrong gradient";
}

}  // namespace nestling::testing
