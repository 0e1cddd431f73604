// rank_reduce.h - the arithmetic of a reduction over ranks on a device: kernels/comm/reduce.h, enqueued.
// A sum of i32 or i64 that overflows is a fault (fault.h).
#pragma once
#include "kernels/comm/comm.h"

namespace nestling::cuda {

// What the ranks bring, each dense and of the same size. `mine` may be what is written.
struct RankParts {
  const std::byte* mine;    // rank `rank`'s
  const std::byte* others;  // rank r's at others + r * step bytes; its own place is not read
  int64_t step;
  int rank, ranks;
};

// out[i] = op over r of part r's [i], i < n, in the order of ranks.
void reduce_in_rank_order(Context& ctx, std::byte* out, const RankParts& parts, int64_t n,
                          DType dtype, Reduce op);

}  // namespace nestling::cuda
