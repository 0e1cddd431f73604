// gated_norm.h - Mamba-2's output norm: u = y silu(z), then RMS norm over each B/C group, times w.
//
// Shapes        y, z, out [T, H, P]   w [H, P]   rstd [T, G]; head h belongs to group h mod G
//               (slot-major), so a group's H/G heads are interleaved with the others'.
// Dtypes        f32; on CUDA y, z and out, with their gradients, may be bf16.
// Elasticity    H and P come from the views; a prefix norms over the prefix. In mask mode z or y
//               come in masked by their producer and `active` holds the active channels of one
//               group (the same for each), which divides in place of H/G * P; differentiated.
// Determinism   same inputs, shapes and threads: same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct GatedNormForward {
  View out;               // [T, H, P] overwritten; may be y
  View rstd;              // [T, G]    overwritten; G comes from it
  ConstView y, z;         // [T, H, P]
  ConstView w;            // [H, P]
  ConstView active = {};  // [1]
  float eps;
};

struct GatedNormBackward {
  View dy, dz;        // [T, H, P] overwritten; dy may be dout
  View dw;            // [H, P]    accumulated
  View dactive = {};  // [1]       accumulated; needs active
  ConstView dout;     // [T, H, P]
  ConstView y, z, w, rstd;
  ConstView active = {};  // [1]
};

void gated_norm_forward(Context& ctx, const GatedNormForward& a);
void gated_norm_backward(Context& ctx, const GatedNormBackward& a);

namespace cpu {
void run(Context& ctx, const GatedNormForward& a);
void run(Context& ctx, const GatedNormBackward& a);
}  // namespace cpu

namespace cuda {
void run(Context& ctx, const GatedNormForward& a);
void run(Context& ctx, const GatedNormBackward& a);
}  // namespace cuda

}  // namespace nestling
