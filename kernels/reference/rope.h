// rope.h - scalar reference of kernels/ops/rope.h: one head, row t at positions[t].
#pragma once
#include <cmath>

#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
Mat<T> rope(const Mat<T>& x, const std::vector<float>& inv_freq,
            const std::vector<int32_t>& positions, bool inverse) {
  Mat<T> y = x;
  const auto half = static_cast<int64_t>(inv_freq.size());
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[static_cast<size_t>(t)]) *
                           static_cast<double>(inv_freq[static_cast<size_t>(i)]);
      const T c = T(std::cos(angle));
      const T s = T(inverse ? -std::sin(angle) : std::sin(angle));
      y(t, i) = x(t, i) * c - x(t, i + half) * s;
      y(t, i + half) = x(t, i + half) * c + x(t, i) * s;
    }
  return y;
}

}  // namespace nestling::reference
