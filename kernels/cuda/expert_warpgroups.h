// expert_warpgroups.h - the products of experts with bf16 operands on Hopper's warpgroups.
#pragma once
#include <initializer_list>

#include "kernels/core/context.h"

namespace nestling::cuda {

// Whether the device has warpgroups and every row of these views starts at a multiple of 16 bytes and is
// whole pieces of 16 bytes long.
bool warpgroups_can(Context& ctx, std::initializer_list<ConstView> views);

// out [R, N] = rows of a times w[e]: w [E, N, K] where its rows hold the sum, else [E, K, N].
void rows_on_warpgroups(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets,
                        bool sum_along_w);
// dw[e] [N, K] (+)= dy^T x over the rows of e.
void weights_on_warpgroups(Context& ctx, View dw, ConstView dy, ConstView x, ConstView offsets,
                           bool accumulate);

}  // namespace nestling::cuda
