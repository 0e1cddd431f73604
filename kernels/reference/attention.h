// attention.h - scalar reference of kernels/ops/attention.h, one query head over one segment, in
// any T that has + * / exp log. It does hold the S x S probabilities.
#pragma once
#include <algorithm>

#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
struct AttentionResult {
  Mat<T> y;    // [S, h]
  Mat<T> lse;  // [1, S]
};

inline bool attention_visible(int64_t t, int64_t s, int64_t window) {
  return s <= t && (window == 0 || s > t - window);
}

// p(t, s) = exp(score(t, s) - lse(t)), zero where the mask hides s; lse as it comes out.
template <class T>
Mat<T> attention_probabilities(const Mat<T>& q, const Mat<T>& k, double scale, int64_t window,
                               Mat<T>& lse) {
  using std::exp;
  using std::log;
  Mat<T> p(q.rows, q.rows);
  lse = Mat<T>(1, q.rows);
  for (int64_t t = 0; t < q.rows; ++t) {
    double highest = -1e300;  // any constant does in exact arithmetic; this one avoids overflow
    for (int64_t s = 0; s < q.rows; ++s) {
      if (!attention_visible(t, s, window)) continue;
      T score = T(0);
      for (int64_t c = 0; c < q.cols; ++c) score += q(t, c) * k(s, c);
      p(t, s) = score * T(scale);
      highest = std::max(highest, real_part(p(t, s)));
    }
    T sum = T(0);
    for (int64_t s = 0; s < q.rows; ++s)
      if (attention_visible(t, s, window)) sum += exp(p(t, s) - T(highest));
    lse[t] = T(highest) + log(sum);
    for (int64_t s = 0; s < q.rows; ++s)
      p(t, s) = attention_visible(t, s, window) ? exp(p(t, s) - lse[t]) : T(0);
  }
  return p;
}

template <class T>
AttentionResult<T> attention_forward(const Mat<T>& q, const Mat<T>& k, const Mat<T>& v,
                                     double scale, int64_t window) {
  AttentionResult<T> r{Mat<T>(q.rows, q.cols), {}};
  const Mat<T> p = attention_probabilities(q, k, scale, window, r.lse);
  for (int64_t t = 0; t < q.rows; ++t)
    for (int64_t s = 0; s < q.rows; ++s)
      for (int64_t c = 0; c < q.cols; ++c) r.y(t, c) += p(t, s) * v(s, c);
  return r;
}

template <class T>
struct AttentionGrads {
  Mat<T> dq, dk, dv;  // [S, h]
};

template <class T>
AttentionGrads<T> attention_backward(const Mat<T>& q, const Mat<T>& k, const Mat<T>& v,
                                     double scale, int64_t window, const Mat<T>& dy) {
  const int64_t n = q.rows;
  const int64_t width = q.cols;
  Mat<T> lse;
  const Mat<T> p = attention_probabilities(q, k, scale, window, lse);
  AttentionGrads<T> g{Mat<T>(n, width), Mat<T>(n, width), Mat<T>(n, width)};
  Mat<T> dp(1, n);
  for (int64_t t = 0; t < n; ++t) {
    T mean = T(0);  // sum of p dp: what the softmax's normalisation takes back
    for (int64_t s = 0; s < n; ++s) {
      dp[s] = T(0);
      for (int64_t c = 0; c < width; ++c) dp[s] += dy(t, c) * v(s, c);
      mean += p(t, s) * dp[s];
    }
    for (int64_t s = 0; s < n; ++s) {
      const T ds = p(t, s) * (dp[s] - mean) * T(scale);
      for (int64_t c = 0; c < width; ++c) {
        g.dv(s, c) += p(t, s) * dy(t, c);
        g.dq(t, c) += ds * k(s, c);
        g.dk(s, c) += ds * q(t, c);
      }
    }
  }
  return g;
}

}  // namespace nestling::reference
