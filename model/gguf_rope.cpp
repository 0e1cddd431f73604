#include "model/gguf_rope.h"

#include <algorithm>
#include <cmath>

namespace nestling {

namespace {

bool gives(const RopeScaling& scaling, std::span<const float> factors, double theta) {
  constexpr float kClose = 1e-6f;
  const auto made = gguf_rope_factors(2 * std::ssize(factors), theta, scaling);
  for (size_t i = 0; i < made.size(); ++i)
    if (!(std::fabs(made[i] - factors[i]) <= kClose * factors[i])) return false;
  return true;
}

}  // namespace

std::vector<float> gguf_rope_factors(int64_t rotary, double theta, const RopeScaling& scaling) {
  std::vector<float> factors;
  for (int64_t i = 0; i < rotary; i += 2)
    factors.push_back(static_cast<float>(
        1 / rope_slowing(std::pow(theta, -static_cast<double>(i) / static_cast<double>(rotary)),
                         scaling)));
  return factors;
}

std::optional<RopeScaling> rope_scaling_of(std::span<const float> factors, double theta) {
  if (std::ranges::all_of(factors, [](float f) { return f == 1; })) return RopeScaling{};
  RopeScaling scaling{.factor = *std::ranges::max_element(factors), .low_freq_factor = 1};
  constexpr double kHigh[] = {4, 2, 3, 5, 6, 7, 8, 16, 32};
  constexpr int kLeastLength = 4, kMostLength = 24;  // powers of two
  for (const double high : kHigh)
    for (int power = kLeastLength; power <= kMostLength; ++power) {
      scaling.high_freq_factor = high;
      scaling.original_max_positions = std::ldexp(1, power);
      if (gives(scaling, factors, theta)) return scaling;
    }
  return {};
}

}  // namespace nestling
