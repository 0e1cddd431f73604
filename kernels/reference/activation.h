// activation.h - scalar reference of kernels/ops/activation.h.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
Mat<T> squared_relu_forward(const Mat<T>& x) {
  Mat<T> y(x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i) y[i] = real_part(x[i]) < 0 ? T(0) : x[i] * x[i];
  return y;
}

template <class T>
Mat<T> squared_relu_backward(const Mat<T>& x, const Mat<T>& dy) {
  Mat<T> dx(x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i) dx[i] = real_part(x[i]) < 0 ? T(0) : T(2) * x[i] * dy[i];
  return dx;
}

template <class T>
T sigmoid(const T& x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

template <class T>
Mat<T> gated_silu_forward(const Mat<T>& gate, const Mat<T>& up) {
  Mat<T> y(gate.rows, gate.cols);
  for (int64_t i = 0; i < y.size(); ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  return y;
}

template <class T>
struct GatedSiluGrads {
  Mat<T> dgate;
  Mat<T> dup;
};

template <class T>
GatedSiluGrads<T> gated_silu_backward(const Mat<T>& gate, const Mat<T>& up, const Mat<T>& dy) {
  GatedSiluGrads<T> g{Mat<T>(gate.rows, gate.cols), Mat<T>(gate.rows, gate.cols)};
  for (int64_t i = 0; i < gate.size(); ++i) {
    const T s = sigmoid(gate[i]);
    g.dgate[i] = dy[i] * up[i] * s * (T(1) + gate[i] * (T(1) - s));
    g.dup[i] = dy[i] * gate[i] * s;
  }
  return g;
}

}  // namespace nestling::reference
