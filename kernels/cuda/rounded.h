// rounded.h - operands of products in the type of the weights: rounded to bf16, or widened to f32.
#pragma once
#include <initializer_list>

#include "kernels/core/context.h"

namespace nestling::cuda {

// Scratch [rows, cols] whose rows start at multiples of 16 bytes.
View aligned_scratch(Context& ctx, DType dtype, int64_t rows, int64_t cols);

// x as the products with w read it: of w's type, rounded to nearest even, in scratch where it is of another.
ConstView like_weight(Context& ctx, ConstView x, ConstView w);

// Whether every row of these views starts at a multiple of 16 bytes and is whole pieces of 16 bytes long.
bool whole_vectors(std::initializer_list<ConstView> views);

}  // namespace nestling::cuda
