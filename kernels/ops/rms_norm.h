// rms_norm.h - y = x / sqrt(sum(x^2) / active + eps) * w, row by row, and its gradients.
// Root mean square normalisation (Zhang and Sennrich 2019, eq. 4).
//
// Shapes        x, y [T, D]   w [D]   rstd [T]. Any view whose rows are equally spaced will do:
//               reshape [T, H*P] to [T*H, P] to norm each head.
// Dtypes        f32; on CUDA y may be bf16.
// Elasticity    D comes from the views; a prefix view norms over the prefix. In mask mode x comes
//               in masked by its producer, and `active` holds the sum of the mask (or the active
//               width), which divides in place of D. It is differentiated.
// Determinism   Same inputs, shapes and threads: same bits. dw is summed in a fixed order.
#pragma once
#include "kernels/core/context.h"
#include "kernels/core/view.h"

namespace nestling {

struct RmsNormForward {
  View y;                 // [T, D] overwritten; may be x itself
  View rstd;              // [T]    overwritten: 1 / sqrt(sum(x^2) / active + eps)
  ConstView x;            // [T, D]
  ConstView w;            // [D]
  ConstView active = {};  // [1]    absent: D
  float eps;
};

struct RmsNormBackward {
  View dx;                // [T, D] overwritten; may be dy itself
  View dw;                // [D]    accumulated
  View dactive = {};      // [1]    accumulated; needs `active`
  ConstView dy;           // [T, D]
  ConstView x;            // [T, D] saved by forward
  ConstView w;            // [D]
  ConstView rstd;         // [T]    saved by forward
  ConstView active = {};  // [1]
};

void rms_norm_forward(Context& ctx, const RmsNormForward& a);
void rms_norm_backward(Context& ctx, const RmsNormBackward& a);

namespace cpu {
void run(Context& ctx, const RmsNormForward& a);
void run(Context& ctx, const RmsNormBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const RmsNormForward& a);
void run(Context& ctx, const RmsNormBackward& a);
}  // namespace cuda

}  // namespace nestling
