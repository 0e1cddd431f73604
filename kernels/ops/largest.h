// largest.h - the largest size an activation has, where FP8 and NVFP4 take their scales from.
//
//   largest = max(largest, max |x|), infinity where an x is infinite or NaN
//
// Shapes        x of any rank whose rows are equally spaced, of no elements too; largest [1]
// Dtypes        largest f32, zero or above; x f32, or but on the CPU bf16.
// Determinism   a maximum is the same in any order.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct Largest {
  View largest;  // [1] raised
  ConstView x;
};

void largest(Context& ctx, const Largest& a);

namespace cpu {
void run(Context& ctx, const Largest& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Largest& a);
}  // namespace cuda

}  // namespace nestling
