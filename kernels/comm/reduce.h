// reduce.h - the arithmetic of a reduction: parts[0] op parts[1] op ..., in that order.
//
// Determinism   each element is reduced by itself, in rank order: the bits do not depend on how the
//               elements are split over ranks, messages or threads.
#pragma once
#include <span>

#include "kernels/comm/comm.h"

namespace nestling {

bool can_reduce(DType dtype, Reduce op);

// out[i] = op over r of parts[r][i], i < n; all dense. `out` may be one of the parts.
// An i32 or i64 sum that overflows throws.
void reduce_in_rank_order(std::byte* out, std::span<const std::byte* const> parts, int64_t n,
                          DType dtype, Reduce op);

}  // namespace nestling
