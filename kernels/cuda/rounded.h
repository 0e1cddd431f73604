// rounded.h - operands of products as the weights want them: rounded to bf16 beside bf16 weights.
#pragma once
#include <initializer_list>

#include "kernels/core/context.h"

namespace nestling::cuda {

// Scratch [rows, cols] whose rows start at multiples of 16 bytes.
View aligned_scratch(Context& ctx, DType dtype, int64_t rows, int64_t cols);

// x as the products with w read it: rounded to nearest even bf16, in scratch, where w is bf16 and x is not.
ConstView like_weight(Context& ctx, ConstView x, ConstView w);

// Whether every row of these views starts at a multiple of 16 bytes and is whole pieces of 16 bytes long.
bool whole_vectors(std::initializer_list<ConstView> views);

}  // namespace nestling::cuda
