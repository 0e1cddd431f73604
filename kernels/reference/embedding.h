// embedding.h - scalar reference of kernels/ops/embedding.h.
#pragma once
#include "kernels/reference/mat.h"

namespace nestling::reference {

template <class T>
Mat<T> embedding_forward(const Mat<T>& table, const std::vector<int32_t>& ids) {
  Mat<T> y(static_cast<int64_t>(ids.size()), table.cols);
  for (int64_t t = 0; t < y.rows; ++t)
    for (int64_t d = 0; d < y.cols; ++d) y(t, d) = table(ids[static_cast<size_t>(t)], d);
  return y;
}

// Adds to dtable.
template <class T>
void embedding_backward(Mat<T>& dtable, const Mat<T>& dy, const std::vector<int32_t>& ids) {
  for (int64_t t = 0; t < dy.rows; ++t)
    for (int64_t d = 0; d < dy.cols; ++d) dtable(ids[static_cast<size_t>(t)], d) += dy(t, d);
}

}  // namespace nestling::reference
