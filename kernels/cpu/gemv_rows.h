// gemv_rows.h - what products of a few rows (gemv.h) share: a kernel for each number of rows, and how many rows of the
// weight a task takes. For kernels/cpu alone.
#pragma once
#include <algorithm>
#include <type_traits>

#include "kernels/cpu/gemv.h"

namespace nestling::cpu {

// fn(rows), a constant, for the rows of x.
template <class Fn>
void with_gemv_rows(const char* op, ConstView x, const Fn& fn) {
  switch (x.dim(0)) {
    case 1:
      return fn(std::integral_constant<int, 1>{});
    case 2:
      return fn(std::integral_constant<int, 2>{});
    case 3:
      return fn(std::integral_constant<int, 3>{});
    case 4:
      return fn(std::integral_constant<int, 4>{});
    default:
      throw Error(str(op, ": x ", x.describe(), ", needs 1 to ", kGemvRows, " rows"));
  }
}

inline int64_t gemv_grain(int64_t row_bytes) {
  constexpr int64_t kBytesPerTask = 32768;  // of w: about 2 us of reading, a few times a fork
  return std::max<int64_t>(4, kBytesPerTask / row_bytes / 4 * 4);
}

}  // namespace nestling::cpu
