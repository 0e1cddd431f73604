// parts.h - gradients of parameters, which many blocks sum over tokens: each writes a part of its own, and the
// parts are added in one order, so that same inputs give same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

// to [n] or [rows, n] f32, any pitch: adds the sum over p < count of parts[p * stride + i] to its element i. What
// lies behind those of `to` in a part is for the elements of `behind`, if there is one.
void add_parts(Context& ctx, View to, const float* parts, int64_t count, int64_t stride,
               View behind = {});

}  // namespace nestling::cuda
