// mask.h - scalar reference of kernels/ops/mask.h.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
Mat<T> mask_forward(const Mat<T>& x, const Mat<T>& m, int64_t repeat) {
  Mat<T> y(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t c = 0; c < x.cols; ++c) y(t, c) = x(t, c) * m[c / repeat];
  return y;
}

template <class T>
struct MaskGrads {
  Mat<T> dx;
  Mat<T> dm;
};

template <class T>
MaskGrads<T> mask_backward(const Mat<T>& x, const Mat<T>& m, const Mat<T>& dy, int64_t repeat) {
  MaskGrads<T> g{Mat<T>(x.rows, x.cols), Mat<T>(1, m.cols)};
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t c = 0; c < x.cols; ++c) {
      g.dx(t, c) = dy(t, c) * m[c / repeat];
      g.dm[c / repeat] += dy(t, c) * x(t, c);
    }
  return g;
}

}  // namespace nestling::reference
