// gate.h - scalar reference of kernels/ops/gate.h. Selection is for real T; the weights at a given
// index and their gradients are templates.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops/gate.h"
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
T gate_sigmoid(const T& x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

// index [T, k], -1 where no expert was left. bias, mask [E]; pass zeros and ones for none.
inline std::vector<int32_t> gate_select(const Mat<double>& logits, const Mat<double>& bias,
                                        const Mat<double>& mask, int64_t k, const GateRule& rule) {
  const double minus_infinity = -HUGE_VAL;
  const int64_t experts = logits.cols;
  const int64_t size = experts / rule.groups;
  std::vector<int32_t> index(static_cast<size_t>(logits.rows * k), -1);
  for (int64_t t = 0; t < logits.rows; ++t) {
    Mat<double> score(1, experts);
    for (int64_t e = 0; e < experts; ++e)
      score[e] =
          (rule.kind == GateKind::kSigmoid ? gate_sigmoid(logits(t, e)) + bias[e] : logits(t, e)) +
          std::log(mask[e]);
    std::vector<std::array<double, 3>> groups;  // minus the sum of the two best, minus the best, i
    for (int64_t i = 0; i < rule.groups; ++i) {
      std::vector<double> s(score.v.begin() + i * size, score.v.begin() + (i + 1) * size);
      std::sort(s.rbegin(), s.rend());
      groups.push_back({-(size > 1 ? s[0] + s[1] : s[0]), -s[0], static_cast<double>(i)});
    }
    std::sort(groups.begin(), groups.end());
    for (size_t i = static_cast<size_t>(rule.top_groups); i < groups.size(); ++i)
      for (int64_t e = 0; e < size; ++e)
        score[static_cast<int64_t>(groups[i][2]) * size + e] = minus_infinity;
    std::vector<int32_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return score[a] > score[b]; });
    for (int64_t i = 0; i < k; ++i) {
      const int32_t e = order[static_cast<size_t>(i)];
      if (score[e] > minus_infinity) index[static_cast<size_t>(t * k + i)] = e;
    }
  }
  return index;
}

// weight [T, k] at a fixed index.
template <class T>
Mat<T> gate_weights(const Mat<T>& logits, const Mat<T>& mask, const std::vector<int32_t>& index,
                    int64_t k, const GateRule& rule) {
  using std::exp;
  Mat<T> weight(logits.rows, k);
  for (int64_t t = 0; t < logits.rows; ++t) {
    const auto at = [&](int64_t i) { return index[static_cast<size_t>(t * k + i)]; };
    T all = T(0);       // the softmax's sum over all experts
    T selected = T(0);  // of what is divided by where weights are renormalised
    for (int64_t e = 0; e < logits.cols; ++e) all += mask[e] * exp(logits(t, e));
    for (int64_t i = 0; i < k; ++i) {
      const T s = rule.kind == GateKind::kSigmoid       ? gate_sigmoid(logits(t, at(i)))
                  : rule.kind == GateKind::kSoftmaxTopK ? exp(logits(t, at(i))) / all
                                                        : exp(logits(t, at(i)));
      weight(t, i) = mask[at(i)] * s;
      selected += weight(t, i);
    }
    const bool divide = rule.renormalize || rule.kind == GateKind::kTopKSoftmax;
    for (int64_t i = 0; i < k; ++i)
      weight(t, i) *= T(rule.scale) / (divide ? selected + T(1e-20) : T(1));
  }
  return weight;
}

template <class T>
struct GateGrads {
  Mat<T> dlogits;
  Mat<T> dmask;
};

// With u = m s (or m q for a softmax): du = (dw - sum(dw u) / sum(u)) scale / sum(u) where weights
// are renormalised, dw scale where not.
template <class T>
GateGrads<T> gate_backward(const Mat<T>& logits, const Mat<T>& mask,
                           const std::vector<int32_t>& index, const Mat<T>& dweight,
                           const GateRule& rule) {
  using std::exp;
  const int64_t k = dweight.cols;
  GateGrads<T> g{Mat<T>(logits.rows, logits.cols), Mat<T>(1, logits.cols)};
  for (int64_t t = 0; t < logits.rows; ++t) {
    const auto at = [&](int64_t i) { return index[static_cast<size_t>(t * k + i)]; };
    Mat<T> s(1, logits.cols);
    T all = T(1);
    if (rule.kind == GateKind::kSoftmaxTopK) {
      all = T(0);
      for (int64_t e = 0; e < logits.cols; ++e) all += mask[e] * exp(logits(t, e));
    }
    for (int64_t e = 0; e < logits.cols; ++e)
      s[e] = rule.kind == GateKind::kSigmoid ? gate_sigmoid(logits(t, e)) : exp(logits(t, e)) / all;
    T sum = T(0);
    T dot = T(0);
    for (int64_t i = 0; i < k; ++i) {
      sum += mask[at(i)] * s[at(i)];
      dot += dweight(t, i) * mask[at(i)] * s[at(i)];
    }
    const bool divide = rule.renormalize || rule.kind == GateKind::kTopKSoftmax;
    Mat<T> du(1, logits.cols);  // of u, at the selected
    T pull = T(0);              // sum of du u
    for (int64_t i = 0; i < k; ++i) {
      du[at(i)] = T(rule.scale) * (divide ? (dweight(t, i) - dot / sum) / sum : dweight(t, i));
      pull += du[at(i)] * mask[at(i)] * s[at(i)];
    }
    for (int64_t e = 0; e < logits.cols; ++e) {
      T slope = du[e] * s[e];  // of u by m; by the logit for a softmax but for m
      if (rule.kind == GateKind::kSoftmaxTopK) slope -= s[e] * pull;
      g.dmask[e] += slope;
      g.dlogits(t, e) = slope * mask[e] * (rule.kind == GateKind::kSigmoid ? T(1) - s[e] : T(1));
    }
  }
  return g;
}

}  // namespace nestling::reference
