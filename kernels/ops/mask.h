// mask.h - width masks: y[t, c] = x[t, c] m[c], and the gradient of the mask.
//
// Shapes        x, y [T, C]   m [C]. View heads as [T, H*P] with a mask repeated by the caller, or
//               use `repeat`: m [C / repeat], each entry holds for `repeat` neighbouring channels.
// Dtypes        f32; on CUDA x, y and their gradients may be bf16.
// Meaning       m is the probability that a unit is alive; each width is multiplied in once, at its
//               producer. m is 0 or 1 in hard mode.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct MaskForward {
  View y;       // [T, C] overwritten; may be x
  ConstView x;  // [T, C]
  ConstView m;  // [C / repeat]
  int64_t repeat = 1;
};
struct MaskBackward {
  View dx;          // [T, C] overwritten; may be dy
  View dm = {};     // [C / repeat] accumulated
  ConstView dy, x;  // [T, C]
  ConstView m;
  int64_t repeat = 1;
};

void mask_forward(Context& ctx, const MaskForward& a);
void mask_backward(Context& ctx, const MaskBackward& a);

namespace cpu {
void run(Context& ctx, const MaskForward& a);
void run(Context& ctx, const MaskBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const MaskForward& a);
void run(Context& ctx, const MaskBackward& a);
}  // namespace cuda

}  // namespace nestling
