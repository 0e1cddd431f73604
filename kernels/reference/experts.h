// experts.h - scalar reference of kernels/ops/experts.h: one expression a token, no sorting, in any
// T that has + and *.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

// y[t] = sum_j weight[t, j] * w[index[t, j]] x[t], w [E] matrices [N, K].
template <class T>
Mat<T> experts_forward(const Mat<T>& x, const std::vector<Mat<T>>& w, const Mat<int>& index,
                       const Mat<T>& weight) {
  Mat<T> y(x.rows, w[0].rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t j = 0; j < index.cols; ++j) {
      const Mat<T>& m = w[static_cast<size_t>(index(t, j))];
      for (int64_t n = 0; n < m.rows; ++n) {
        T sum = T(0);
        for (int64_t k = 0; k < m.cols; ++k) sum += x(t, k) * m(n, k);
        y(t, n) += weight(t, j) * sum;
      }
    }
  return y;
}

template <class T>
struct ExpertGrads {
  Mat<T> dx, dweight;
  std::vector<Mat<T>> dw;
};

template <class T>
ExpertGrads<T> experts_backward(const Mat<T>& x, const std::vector<Mat<T>>& w,
                                const Mat<int>& index, const Mat<T>& weight, const Mat<T>& dy) {
  ExpertGrads<T> g{Mat<T>(x.rows, x.cols), Mat<T>(weight.rows, weight.cols), {}};
  for (const auto& m : w) g.dw.emplace_back(m.rows, m.cols);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t j = 0; j < index.cols; ++j) {
      const auto e = static_cast<size_t>(index(t, j));
      for (int64_t n = 0; n < w[e].rows; ++n)
        for (int64_t k = 0; k < w[e].cols; ++k) {
          g.dweight(t, j) += dy(t, n) * w[e](n, k) * x(t, k);
          g.dx(t, k) += weight(t, j) * dy(t, n) * w[e](n, k);
          g.dw[e](n, k) += weight(t, j) * dy(t, n) * x(t, k);
        }
    }
  return g;
}

}  // namespace nestling::reference
