// rounded.h - operands of products in the type of the weights: rounded to bf16, or widened to f32.
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

// Scratch [rows, cols] whose rows start at multiples of 16 bytes.
View aligned_scratch(Context& ctx, DType dtype, int64_t rows, int64_t cols);

// x as the products with w read it: of w's type, rounded to nearest even, in scratch where it is of another.
ConstView like_weight(Context& ctx, ConstView x, ConstView w);

}  // namespace nestling::cuda
