// elementwise.h - the few plain vector operations layers need between products. They are plain functions: with two
// or three operands alike there is nothing to name.
//
// Shapes        all operands alike, any rank; rows may lie apart (prefix views).
// Dtypes        f32; cast: f32 or bf16 to either, rounded to nearest even.
// Aliasing      add: y may be a or b. Else no operand may overlap another.
// Errors        shapes or dtypes that do not fit throw, naming the operands.
// Determinism   each element by itself: same inputs, same bits, on any number of threads.
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
