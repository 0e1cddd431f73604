// interval.h - 95% intervals of accuracies: one number without an interval says little.
#pragma once
#include <cstdint>

namespace nestling {

struct Interval {
  double estimate;
  double low;
  double high;
};

// Of a share: `successes` right of n. Score interval (Wilson 1927), within [0, 1]. n >= 1.
Interval wilson_interval(int64_t successes, int64_t n);

// Of accuracy(a) - accuracy(b) measured on the same n problems: `only_a` were solved by a alone,
// `only_b` by b alone. Adjusted Wald (Bonett and Price 2012): p_a = (only_a + 1) / (n + 2), p_b
// likewise, p_a - p_b +- z sqrt((p_a + p_b - (p_a - p_b)^2) / (n + 2)), within [-1, 1]. The
// estimate is the plain (only_a - only_b) / n. n >= 1.
Interval paired_interval(int64_t only_a, int64_t only_b, int64_t n);

}  // namespace nestling
