// attention_warpgroups.h - attention of bf16 operands on Hopper's warpgroups.
#pragma once
#include "kernels/ops/attention.h"

namespace nestling::cuda {

// Whether the device has warpgroups, heads have at most 128 channels, and every row of a head starts at a multiple
// of 16 bytes and is whole pieces of 16 bytes long.
bool attention_on_warpgroups(Context& ctx, std::initializer_list<ConstView> heads);

void forward_on_warpgroups(Context& ctx, const AttentionForward& a);
// The pass over keys is cut into parts until it has `blocks`: of the shapes alone, so that a sum is the same on every
// card.
void backward_on_warpgroups(Context& ctx, const AttentionBackward& a, int64_t blocks = 768);

}  // namespace nestling::cuda
