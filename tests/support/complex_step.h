// complex_step.h - exact derivatives of a templated reference, to check a hand-written backward.
#pragma once
#include <algorithm>
#include <complex>
#include <functional>
#include <gtest/gtest.h>

#include "kernels/reference/mat.h"

namespace nestling::testing {

// d loss / d x[i] for every i: loss is evaluated at x + ih e_i with h = 1e-50.
inline reference::Mat<double> complex_step_gradient(
    const reference::Mat<double>& x,
    const std::function<std::complex<double>(const reference::Mat<std::complex<double>>&)>& loss) {
  constexpr double kStep = 1e-50;
  auto z = reference::cast<std::complex<double>>(x);
  reference::Mat<double> g(x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i) {
    z[i] += std::complex<double>(0, kStep);
    g[i] = loss(z).imag() / kStep;
    z[i] = x[i];
  }
  return g;
}

// |got - want| <= tolerance * max(1, max|want|) everywhere.
inline void expect_gradient(const char* name, const reference::Mat<double>& got,
                            const reference::Mat<double>& want, double tolerance = 1e-12) {
  ASSERT_EQ(got.size(), want.size()) << name;
  double scale = 1;
  for (double x : want.v) scale = std::max(scale, std::abs(x));
  for (int64_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], tolerance * scale) << name << "[" << i << "]";
}

}  // namespace nestling::testing
