// rms_norm.h - scalar reference of kernels/ops/rms_norm.h, in any T that has + * / sqrt.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
Mat<T> rms_norm_forward(const Mat<T>& x, const Mat<T>& w, T active, double eps) {
  using std::sqrt;
  Mat<T> y(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    T sum = T(0);
    for (int64_t d = 0; d < x.cols; ++d) sum += x(t, d) * x(t, d);
    const T rstd = T(1) / sqrt(sum / active + T(eps));
    for (int64_t d = 0; d < x.cols; ++d) y(t, d) = x(t, d) * rstd * w[d];
  }
  return y;
}

template <class T>
struct RmsNormGrads {
  Mat<T> dx;
  Mat<T> dw;
  T dactive = T(0);
};

template <class T>
RmsNormGrads<T> rms_norm_backward(const Mat<T>& x, const Mat<T>& w, T active, double eps,
                                  const Mat<T>& dy) {
  using std::sqrt;
  RmsNormGrads<T> g{Mat<T>(x.rows, x.cols), Mat<T>(1, x.cols), T(0)};
  for (int64_t t = 0; t < x.rows; ++t) {
    T sum = T(0);
    T dot = T(0);  // sum of dy * w * x
    for (int64_t d = 0; d < x.cols; ++d) {
      sum += x(t, d) * x(t, d);
      dot += dy(t, d) * w[d] * x(t, d);
    }
    const T rstd = T(1) / sqrt(sum / active + T(eps));
    const T pull = dot * rstd * rstd * rstd / active;
    for (int64_t d = 0; d < x.cols; ++d) {
      g.dx(t, d) = dy(t, d) * w[d] * rstd - x(t, d) * pull;
      g.dw[d] += dy(t, d) * x(t, d) * rstd;
    }
    g.dactive += dot * rstd * rstd * rstd * sum / (T(2) * active * active);
  }
  return g;
}

}  // namespace nestling::reference
