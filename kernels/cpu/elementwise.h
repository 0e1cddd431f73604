// elementwise.h - the CPU side of kernels/ops/elementwise.h, on operands already checked, not
// empty.
//
// Operands are read as equally spaced rows where their strides allow it, and throw where they do
// not.
#pragma once
#include "kernels/core/view.h"

namespace nestling::cpu {

void add(View y, ConstView a, ConstView b);
void add_scaled(View y, ConstView x, float scale);
void scale(View x, float factor);
void cast(View y, ConstView x);

}  // namespace nestling::cpu
