// expert_rows.h - what the grouped products of the CPU share: rows of experts, one expert of a stack, and how much of
// its weights a thread makes f32 at a time. For kernels/cpu alone.
#pragma once
#include <algorithm>

#include "kernels/core/view.h"

namespace nestling::cpu {

// Experts own rows [offsets[e], offsets[e+1]) of [0, R).
inline void check_offsets(const char* op, ConstView offsets, int64_t rows) {
  const auto* at = offsets.ptr<int32_t>();
  const int64_t experts = offsets.dim(0) - 1;
  NESTLING_CHECK(at[0] == 0 && at[experts] == rows, op, ": offsets run from ", at[0], " to ",
                 at[experts], ", needs 0 to ", rows);
  for (int64_t e = 0; e < experts; ++e)
    NESTLING_CHECK(at[e] <= at[e + 1], op, ": offsets fall from ", at[e], " to ", at[e + 1],
                   " at expert ", e);
}

// [E, A, B] to [A, B]
template <class AnyView>
AnyView expert_of(AnyView w, int64_t e) {
  return w.slice(0, e, 1).reshape({w.dim(1), w.dim(2)});
}

// Rows, or columns, of `other` weights each.
inline int64_t widened_at_once(int64_t other) {
  constexpr int64_t kBytes = int64_t{1} << 20;  // about a second-level cache
  constexpr int64_t kMultiple = 32;
  const int64_t fit = kBytes / static_cast<int64_t>(sizeof(float)) / other;
  return std::max(fit / kMultiple, int64_t{1}) * kMultiple;
}

}  // namespace nestling::cpu
