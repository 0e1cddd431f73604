// activation.h - the feed-forward activations: squared ReLU (So et al. 2021, "Primer") and gated
// SiLU (Shazeer 2020, "GLU Variants").
//
// Shapes        [T, F], all alike.   Dtypes f32, or on CUDA bf16.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct SquaredReluForward {
  View y;       // [T, F] overwritten; may be x
  ConstView x;  // [T, F]
};
struct SquaredReluBackward {
  View dx;          // [T, F] overwritten; may be dy
  ConstView dy, x;  // [T, F]
};
struct GatedSiluForward {
  View y;              // [T, F] overwritten: silu(gate) * up; may be up
  ConstView gate, up;  // [T, F]
};
struct GatedSiluBackward {
  View dgate, dup;  // [T, F] overwritten; dup may be dy, dgate may be gate
  ConstView dy, gate, up;
};

void squared_relu_forward(Context& ctx, const SquaredReluForward& a);
void squared_relu_backward(Context& ctx, const SquaredReluBackward& a);
void gated_silu_forward(Context& ctx, const GatedSiluForward& a);
void gated_silu_backward(Context& ctx, const GatedSiluBackward& a);

namespace cpu {
void run(Context& ctx, const SquaredReluForward& a);
void run(Context& ctx, const SquaredReluBackward& a);
void run(Context& ctx, const GatedSiluForward& a);
void run(Context& ctx, const GatedSiluBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const SquaredReluForward& a);
void run(Context& ctx, const SquaredReluBackward& a);
void run(Context& ctx, const GatedSiluForward& a);
void run(Context& ctx, const GatedSiluBackward& a);
}  // namespace cuda

}  // namespace nestling
