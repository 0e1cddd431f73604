// sample.h - scalar reference of kernels/ops/sample.h: the distribution a token is drawn from.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops/sample.h"
#include "kernels/reference/mat.h"

namespace nestling::reference {

inline Mat<double> sample_distribution(const Mat<double>& logits, const SamplingRule& rule) {
  const int64_t n = logits.cols;
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  Mat<double> p(1, n);
  if (rule.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  if (rule.top_k > 0 && rule.top_k < n) order.resize(static_cast<size_t>(rule.top_k));
  double sum = 0;
  for (int64_t i : order) {
    p[i] = std::exp((logits[i] - logits[order[0]]) / static_cast<double>(rule.temperature));
    sum += p[i];
  }
  double kept = 0;
  for (int64_t i : order) {
    if (kept >= static_cast<double>(rule.top_p) * sum) {
      p[i] = 0;
    } else {
      kept += p[i];
    }
  }
  for (auto& x : p.v) x /= kept;
  return p;
}

}  // namespace nestling::reference
