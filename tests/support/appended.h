// appended.h - what attention_step leaves in its caches.
#pragma once
#include <gtest/gtest.h>
#include <vector>

#include "tests/support/operands.h"

namespace nestling::testing {

// The rows [B, width] are the last of their sequences in the cache [B * capacity, width].
inline void expect_appended(const Mat<double>& cache, const Mat<double>& rows,
                            const std::vector<int32_t>& lengths) {
  const int64_t capacity = cache.rows / rows.rows;
  for (int64_t b = 0; b < rows.rows; ++b)
    for (int64_t c = 0; c < rows.cols; ++c)
      EXPECT_EQ(cache(b * capacity + lengths[static_cast<size_t>(b)] - 1, c), rows(b, c));
}

}  // namespace nestling::testing
