// linear.h - scalar reference of kernels/ops/linear.h, in any T that has + and *.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

// y [T, N] = x [T, K] w [N, K]^T + bias [N]
template <class T>
Mat<T> linear_forward(const Mat<T>& x, const Mat<T>& w, const Mat<T>& bias) {
  Mat<T> y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      T sum = bias[n];
      for (int64_t k = 0; k < x.cols; ++k) sum += x(t, k) * w(n, k);
      y(t, n) = sum;
    }
  return y;
}

template <class T>
struct LinearGrads {
  Mat<T> dx, dw, dbias;
};

template <class T>
LinearGrads<T> linear_backward(const Mat<T>& x, const Mat<T>& w, const Mat<T>& dy) {
  LinearGrads<T> g{Mat<T>(x.rows, x.cols), Mat<T>(w.rows, w.cols), Mat<T>(1, w.rows)};
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      for (int64_t k = 0; k < x.cols; ++k) {
        g.dx(t, k) += dy(t, n) * w(n, k);
        g.dw(n, k) += dy(t, n) * x(t, k);
      }
      g.dbias[n] += dy(t, n);
    }
  return g;
}

}  // namespace nestling::reference
