// elementwise.h - the few plain vector operations layers need between products.
//
// Shapes        all operands alike, any rank.   Dtypes f32 unless said.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

void add(Context& ctx, View y, ConstView a, ConstView b);         // y = a + b; y may be a or b
void add_scaled(Context& ctx, View y, ConstView x, float scale);  // y += scale * x
void scale(Context& ctx, View x, float factor);                   // x *= factor
void cast(Context& ctx, View y, ConstView x);  // f32 or bf16 to either, to nearest even

namespace cuda {
void add(Context& ctx, View y, ConstView a, ConstView b);
void add_scaled(Context& ctx, View y, ConstView x, float scale);
void scale(Context& ctx, View x, float factor);
void cast(Context& ctx, View y, ConstView x);
}  // namespace cuda

}  // namespace nestling
