// expert_warpgroups.h - the products of experts with bf16 operands on Hopper's warpgroups.
#pragma once
#include <initializer_list>

#include "kernels/core/context.h"

namespace nestling::cuda {

// Whether the device has warpgroups and every row of these views starts at a multiple of 16 bytes and is
// whole pieces of 16 bytes long.
bool warpgroups_can(Context& ctx, std::initializer_list<ConstView> views);

// Operands bf16, borrowed until the context's stream has done them; sums f32; out f32 or bf16, dw f32. Rows of expert e
// are offsets[e] to offsets[e + 1], read on the device. Same inputs, same bits; another order of sums than the kernels
// for other cards.
//
// Rows of e of out [R, N] = those of a [R, K] times w[e]^T with w [E, N, K] (forward) where `transpose_w`, else times w[e]
// with w [E, K, N] (the gradient of a).
void rows_on_warpgroups(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets,
                        bool transpose_w);
// dw[e] [N, K] = dy^T x over the rows of e, or += where `accumulate`.
void weights_on_warpgroups(Context& ctx, View dw, ConstView dy, ConstView x, ConstView offsets,
                           bool accumulate);

}  // namespace nestling::cuda
