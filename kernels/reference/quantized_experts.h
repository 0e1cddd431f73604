// quantized_experts.h - scalar reference of kernels/ops/quantized_experts.h, in double: every expert's rows by the
// reference of its format.
#pragma once
#include "kernels/reference/nvfp4_linear.h"

namespace nestling::reference {

// Of FP8 the values of codes, of NVFP4 codes and their blocks' scales.
inline Mat<double> quantized_linear(const Mat<double>& x, const Mat<double>& w, float input_scale,
                                    float weight_scale) {
  return fp8_linear(x, w, input_scale, weight_scale);
}
inline Mat<double> quantized_linear(const Mat<double>& x, const Nvfp4& w, float input_scale,
                                    float weight_scale) {
  return nvfp4_linear(x, w, input_scale, weight_scale);
}

inline Mat<double> rows_between(const Mat<double>& m, int64_t begin, int64_t end) {
  Mat<double> out(end - begin, m.cols);
  for (int64_t i = 0; i < out.size(); ++i) out[i] = m[begin * m.cols + i];
  return out;
}

// y [R, N]: rows [offsets[e], offsets[e+1]) of x [R, K] times w[e] [N, K]^T
template <class W>
Mat<double> quantized_experts(const Mat<double>& x, const std::vector<W>& w,
                              const std::vector<float>& scales, const std::vector<int>& offsets,
                              float input_scale) {
  Mat<double> y;
  for (size_t e = 0; e < w.size(); ++e) {
    const auto part =
        quantized_linear(rows_between(x, offsets[e], offsets[e + 1]), w[e], input_scale, scales[e]);
    y.v.insert(y.v.end(), part.v.begin(), part.v.end());
    y.rows += part.rows;
    y.cols = part.cols;
  }
  return y;
}

}  // namespace nestling::reference
