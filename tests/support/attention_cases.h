// attention_cases.h - operands of attention in parts: of a head, and of segments that go on behind caches.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/ops/segments.h"
#include "kernels/reference/mat.h"

namespace nestling::testing {

using reference::Mat;

// Rows [begin, begin + rows) of one head of [T, heads * width].
inline Mat<double> cut_head(const Mat<double>& m, int64_t begin, int64_t rows, int64_t head,
                            int64_t width) {
  Mat<double> part(rows, width);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t c = 0; c < width; ++c) part(t, c) = m(begin + t, head * width + c);
  return part;
}
inline void add_head(Mat<double>& m, const Mat<double>& part, int64_t begin, int64_t head) {
  for (int64_t t = 0; t < part.rows; ++t)
    for (int64_t c = 0; c < part.cols; ++c) m(begin + t, head * part.cols + c) += part(t, c);
}

// Of every segment the first starts[i] tokens came before: what is left goes on behind them.
class Continued {
 public:
  Continued(const Segments& whole, std::vector<int32_t> before_each)
      : starts(std::move(before_each)), whole_(whole) {
    for (int64_t i = 0; i < whole.count(); ++i) {
      const int64_t n = whole.length(i);
      capacity = std::max(capacity, n + 2);
      offsets.push_back(offsets.back() + static_cast<int32_t>(n - before(i)));
    }
  }
  int64_t tokens() const { return offsets.back(); }

  // Of a matrix with a row a token, those of the tokens that are left.
  Mat<double> left(const Mat<double>& m) const {
    Mat<double> rows(tokens(), m.cols);
    int64_t row = 0;
    for (int64_t i = 0; i < whole_.count(); ++i)
      for (int64_t t = before(i); t < whole_.length(i); ++t, ++row)
        for (int64_t c = 0; c < m.cols; ++c) rows(row, c) = m(whole_.begin(i) + t, c);
    return rows;
  }
  // Of keys or values caches [segments * capacity, width] of all tokens; NaN behind them, which is never read.
  Mat<double> caches(const Mat<double>& m) const {
    Mat<double> rows(whole_.count() * capacity, m.cols);
    std::fill(rows.v.begin(), rows.v.end(), std::numeric_limits<double>::quiet_NaN());
    for (int64_t i = 0; i < whole_.count(); ++i)
      for (int64_t t = 0; t < whole_.length(i); ++t)
        for (int64_t c = 0; c < m.cols; ++c) rows(i * capacity + t, c) = m(whole_.begin(i) + t, c);
    return rows;
  }

  std::vector<int32_t> starts, offsets = {0};
  int64_t capacity = 0;

 private:
  int64_t before(int64_t i) const { return starts[static_cast<size_t>(i)]; }
  Segments whole_;
};

}  // namespace nestling::testing
