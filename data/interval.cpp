#include "data/interval.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"

namespace nestling {

namespace {
constexpr double kZ = 1.959963984540054;  // 97.5% quantile of the normal distribution
}

Interval wilson_interval(int64_t successes, int64_t n) {
  NESTLING_CHECK(n >= 1 && successes >= 0 && successes <= n, "wilson_interval: ", successes,
                 " right of ", n);
  const auto count = static_cast<double>(n);
  const double p = static_cast<double>(successes) / count;
  const double shrink = 1 / (1 + kZ * kZ / count);
  const double center = (p + kZ * kZ / (2 * count)) * shrink;
  const double half = kZ * shrink * std::sqrt(p * (1 - p) / count + kZ * kZ / (4 * count * count));
  // At the ends the formula gives exactly 0 and 1; rounding may not.
  return {p, successes == 0 ? 0.0 : std::max(0.0, center - half),
          successes == n ? 1.0 : std::min(1.0, center + half)};
}

Interval paired_interval(int64_t only_a, int64_t only_b, int64_t n) {
  NESTLING_CHECK(n >= 1 && only_a >= 0 && only_b >= 0 && only_a + only_b <= n,
                 "paired_interval: ", only_a, " and ", only_b, " of ", n);
  const double a = static_cast<double>(only_a + 1) / static_cast<double>(n + 2);
  const double b = static_cast<double>(only_b + 1) / static_cast<double>(n + 2);
  const double half = kZ * std::sqrt((a + b - (a - b) * (a - b)) / static_cast<double>(n + 2));
  return {static_cast<double>(only_a - only_b) / static_cast<double>(n),
          std::max(-1.0, a - b - half), std::min(1.0, a - b + half)};
}

}  // namespace nestling
