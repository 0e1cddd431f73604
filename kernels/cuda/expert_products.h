// expert_products.h - the products of some of the experts whose rows x has.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

// As ExpertLinearForward, of experts whose rows may begin after x's first and end before its last: w [E, N, K] and offsets
// [E+1] are theirs alone, other rows of y stay. `all`: how many experts share x's rows, by which the kernel is chosen: so it
// is the same one for every part. x is of w's type.
void part_of_experts(Context& ctx, View y, ConstView x, ConstView w, ConstView offsets,
                     int64_t all);

}  // namespace nestling::cuda
