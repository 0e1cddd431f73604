// gated_norm.h - scalar reference of kernels/ops/gated_norm.h, in any T that has + * / sqrt exp.
#pragma once
#include "kernels/reference/conv1d.h"
#include "kernels/reference/mat.h"

namespace nestling::reference {

// y, z [T, H * P]; w [1, H * P]; channel c belongs to group (c / P) mod G.
struct GatedNormShape {
  int64_t heads, channels, groups;
  double eps;
  int64_t group_of(int64_t column) const { return column / channels % groups; }
};

// 1 / sqrt(sum(u^2) / active + eps) of every token and group, [T, G].
template <class T>
Mat<T> gated_norm_rstd(const GatedNormShape& s, const Mat<T>& y, const Mat<T>& z, T active) {
  using std::sqrt;
  Mat<T> rstd(y.rows, s.groups);
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t c = 0; c < y.cols; ++c) {
      const T u = y(t, c) * z(t, c) * sigmoid(z(t, c));
      rstd(t, s.group_of(c)) += u * u;
    }
    for (int64_t g = 0; g < s.groups; ++g) rstd(t, g) = T(1) / sqrt(rstd(t, g) / active + T(s.eps));
  }
  return rstd;
}

template <class T>
Mat<T> gated_norm_forward(const GatedNormShape& s, const Mat<T>& y, const Mat<T>& z,
                          const Mat<T>& w, T active) {
  const Mat<T> rstd = gated_norm_rstd(s, y, z, active);
  Mat<T> out(y.rows, y.cols);
  for (int64_t t = 0; t < y.rows; ++t)
    for (int64_t c = 0; c < y.cols; ++c)
      out(t, c) = y(t, c) * z(t, c) * sigmoid(z(t, c)) * rstd(t, s.group_of(c)) * w[c];
  return out;
}

template <class T>
struct GatedNormGrads {
  Mat<T> dy, dz, dw;
  T dactive = T(0);
};

template <class T>
GatedNormGrads<T> gated_norm_backward(const GatedNormShape& s, const Mat<T>& y, const Mat<T>& z,
                                      const Mat<T>& w, T active, const Mat<T>& dout) {
  const Mat<T> rstd = gated_norm_rstd(s, y, z, active);
  GatedNormGrads<T> g{Mat<T>(y.rows, y.cols), Mat<T>(y.rows, y.cols), Mat<T>(1, y.cols), T(0)};
  for (int64_t t = 0; t < y.rows; ++t) {
    std::vector<T> dot(static_cast<size_t>(s.groups), T(0));      // sum of dout w u
    std::vector<T> squares(static_cast<size_t>(s.groups), T(0));  // sum of u^2
    for (int64_t c = 0; c < y.cols; ++c) {
      const T u = y(t, c) * z(t, c) * sigmoid(z(t, c));
      const auto group = static_cast<size_t>(s.group_of(c));
      dot[group] += dout(t, c) * w[c] * u;
      squares[group] += u * u;
      g.dw[c] += dout(t, c) * u * rstd(t, s.group_of(c));
    }
    for (int64_t c = 0; c < y.cols; ++c) {
      const auto group = static_cast<size_t>(s.group_of(c));
      const T r = rstd(t, s.group_of(c));
      const T gate = sigmoid(z(t, c));
      const T u = y(t, c) * z(t, c) * gate;
      const T du = dout(t, c) * w[c] * r - u * dot[group] * r * r * r / active;
      g.dy(t, c) = du * z(t, c) * gate;
      g.dz(t, c) = du * y(t, c) * gate * (T(1) + z(t, c) * (T(1) - gate));
    }
    for (size_t group = 0; group < dot.size(); ++group) {
      const T r = rstd(t, static_cast<int64_t>(group));
      g.dactive += dot[group] * squares[group] * r * r * r / (T(2) * active * active);
    }
  }
  return g;
}

}  // namespace nestling::reference
