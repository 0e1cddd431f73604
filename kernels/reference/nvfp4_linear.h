// nvfp4_linear.h - scalar reference of kernels/ops/nvfp4_linear.h, in double. E2M1 and E4M3 are found among all of
// their values; quotients and scales are rounded to float where the contract says so.
#pragma once
#include "kernels/reference/fp8_linear.h"

namespace nestling::reference {

inline double e2m1_value(int code) {
  constexpr double kSizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kSizes[code & 7] : kSizes[code & 7];
}

// The nearest, of two equally near the even one, 7 for what is larger and for NaN.
inline int e2m1_code(double x) {
  if (std::isnan(x)) return 7;
  const double size = std::fmin(std::fabs(x), 6);
  int best = 0;
  for (int code = 1; code < 8; ++code) {
    const double nearer = std::fabs(size - e2m1_value(best)) - std::fabs(size - e2m1_value(code));
    if (nearer > 0 || (nearer == 0 && code % 2 == 0)) best = code;
  }
  return x < 0 ? best | 8 : best;
}

// Codes one an element, and the codes of the scales of their blocks.
struct Nvfp4 {
  Mat<int> codes;
  Mat<int> scales;
};

inline Nvfp4 nvfp4_of(const Mat<double>& x, float tensor_scale) {
  const auto rounded = [](double v) { return double{static_cast<float>(v)}; };
  Nvfp4 q{Mat<int>(x.rows, x.cols), Mat<int>(x.rows, x.cols / 16)};
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t b = 0; b < q.scales.cols; ++b) {
      double largest = 0;
      bool nan = false;
      for (int64_t i = 16 * b; i < 16 * b + 16; ++i) {
        largest = std::fmax(largest, std::fabs(x(r, i)));
        nan = nan || std::isnan(x(r, i));
      }
      const double scale = rounded(largest / rounded(6 * double{tensor_scale}));
      const double clamped = scale == 0 ? 1 : std::fmax(scale, std::ldexp(1, -9));
      q.scales(r, b) = nan ? 0x7f : e4m3_code(clamped);
      const double step = rounded(e4m3_value(q.scales(r, b)) * double{tensor_scale});
      for (int64_t i = 16 * b; i < 16 * b + 16; ++i)
        q.codes(r, i) = e2m1_code(rounded(x(r, i) / step));
    }
  return q;
}

// What a product reads: codes times the scales of their blocks, without that of the tensor.
inline Mat<double> nvfp4_values(const Nvfp4& q) {
  Mat<double> out(q.codes.rows, q.codes.cols);
  for (int64_t r = 0; r < out.rows; ++r)
    for (int64_t c = 0; c < out.cols; ++c)
      out(r, c) = e2m1_value(q.codes(r, c)) * e4m3_value(q.scales(r, c / 16));
  return out;
}

// y [T, N] = input_scale weight_scale values(x [T, K]) values(w [N, K])^T
inline Mat<double> nvfp4_linear(const Mat<double>& x, const Nvfp4& w, float input_scale,
                                float weight_scale) {
  const Mat<double> left = nvfp4_values(nvfp4_of(x, input_scale));
  const Mat<double> right = nvfp4_values(w);
  Mat<double> y(x.rows, right.rows);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t n = 0; n < right.rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) sum += left(t, k) * right(n, k);
      y(t, n) = double{input_scale} * double{weight_scale} * sum;
    }
  return y;
}

}  // namespace nestling::reference
