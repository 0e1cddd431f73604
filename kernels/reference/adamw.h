// adamw.h - scalar reference of kernels/ops/adamw.h: one step of one tensor.
#pragma once
#include <cmath>

#include "kernels/reference/mat.h"

namespace nestling::reference {

struct AdamWRule {
  double beta1, beta2, eps, lr, decay, grad_scale;
  int64_t step;
};

template <class T>
void adamw_step(Mat<T>& w, Mat<T>& m, Mat<T>& v, const Mat<T>& grad, const AdamWRule& r) {
  using std::sqrt;
  const auto t = static_cast<double>(r.step);
  for (int64_t i = 0; i < w.size(); ++i) {
    const T g = grad[i] * T(r.grad_scale);
    m[i] = T(r.beta1) * m[i] + T(1 - r.beta1) * g;
    v[i] = T(r.beta2) * v[i] + T(1 - r.beta2) * g * g;
    const T m_hat = m[i] / T(1 - std::pow(r.beta1, t));
    const T v_hat = v[i] / T(1 - std::pow(r.beta2, t));
    w[i] -= T(r.lr) * (m_hat / (sqrt(v_hat) + T(r.eps)) + T(r.decay) * w[i]);
  }
}

}  // namespace nestling::reference
