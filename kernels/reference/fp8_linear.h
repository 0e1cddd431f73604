// fp8_linear.h - scalar reference of kernels/ops/fp8_linear.h, in double. E4M3 is found among
// all of its values, written down from the definition of the format alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/mat.h"

namespace nestling::reference {

// The value of a code: (-1)^S 2^(E-7) (1 + M/8), below the normal ones (-1)^S 2^-6 M/8.
inline double e4m3_value(int code) {
  const int e = code >> 3 & 15;
  const int m = code & 7;
  if (e == 15 && m == 7) return std::numeric_limits<double>::quiet_NaN();
  const double size = e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10);
  return (code & 0x80) != 0 ? -size : size;
}

// The code of x: the nearest, of two equally near the even one, 448 for what is larger; NaN is 0x7f.
inline int e4m3_code(double x) {
  static const std::vector<double> values = [] {
    std::vector<double> all;
    for (int code = 0; code < 0x7f; ++code) all.push_back(e4m3_value(code));
    return all;
  }();
  if (std::isnan(x)) return 0x7f;
  const double size = std::fmin(std::fabs(x), values.back());
  const auto above = std::lower_bound(values.begin(), values.end(), size);
  auto code = static_cast<int>(above - values.begin());
  if (code > 0) {
    const double up = *above - size;
    const double down = size - *(above - 1);
    if (down < up || (down == up && code % 2 == 1)) --code;
  }
  return std::signbit(x) ? code | 0x80 : code;
}

// What the product reads of x: the quotient is rounded to float first.
inline Mat<double> e4m3_of(const Mat<double>& x, float scale) {
  Mat<double> out(x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i)
    out[i] = e4m3_value(e4m3_code(static_cast<float>(x[i] / double{scale})));
  return out;
}

// y [T, N] = input_scale weight_scale e4m3(x [T, K] / input_scale) w [N, K]^T, w the values of codes
inline Mat<double> fp8_linear(const Mat<double>& x, const Mat<double>& w, float input_scale,
                              float weight_scale) {
  const Mat<double> code = e4m3_of(x, input_scale);
  Mat<double> y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < w.rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) sum += code(t, k) * w(n, k);
      y(t, n) = double{input_scale} * double{weight_scale} * sum;
    }
  return y;
}

}  // namespace nestling::reference
