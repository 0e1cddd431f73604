// alignment.h - may rows be read several bytes at a time? Kernels that do so ask before they are launched.
//
// Rows          of a view: runs of its last extent. They are aligned where all of them start at multiples of so many
//               bytes, and whole where they are whole pieces of so many bytes long too.
// Absent views  are aligned and whole: they are not read.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/core/view.h"

namespace nestling::cuda {

// Whether `base`, and whatever lies a multiple of these pitches (in elements) from it, is at a multiple of `bytes`.
template <class X>
bool pitches_aligned(const X* base, std::initializer_list<int64_t> pitches, int64_t bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(base) % static_cast<uintptr_t>(bytes) == 0;
  for (const int64_t pitch : pitches)
    aligned = aligned && pitch * static_cast<int64_t>(sizeof(X)) % bytes == 0;
  return aligned;
}

inline bool rows_aligned(ConstView v, int64_t bytes) {
  bool aligned = pitches_aligned(v.data(), {}, bytes);  // null where absent
  for (int d = 0; d + 1 < v.rank(); ++d)
    aligned = aligned && v.stride(d) * dtype_bytes(v.dtype()) % bytes == 0;
  return aligned;
}

inline bool whole_rows(ConstView v, int64_t bytes) {
  return !v ||
         (rows_aligned(v, bytes) && v.dim(v.rank() - 1) * dtype_bytes(v.dtype()) % bytes == 0);
}
inline bool whole_rows(std::initializer_list<ConstView> views, int64_t bytes) {
  return std::all_of(views.begin(), views.end(), [&](ConstView v) { return whole_rows(v, bytes); });
}

}  // namespace nestling::cuda
