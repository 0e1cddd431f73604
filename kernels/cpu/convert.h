// convert.h - rows of f32 and bf16, one into the other. Round to nearest even; NaN stays NaN.
//
// Shapes        out and in alike, rank 2 or anything that reads as equally spaced rows.
// Threads       spread over rows; serial inside a parallel_for.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cpu {

void convert(View out, ConstView in);          // f32 or bf16 to f32 or bf16
void convert_rounded(View out, ConstView in);  // to f32 that holds bf16 values only
// [rows, cols] f32 in ctx.scratch() that holds `in` rounded to bf16, and the same as bf16.
View rounded_copy(Context& ctx, ConstView in);
View bf16_copy(Context& ctx, ConstView in);

}  // namespace nestling::cpu
