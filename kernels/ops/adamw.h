// adamw.h - AdamW over many tensors at once (Loshchilov and Hutter 2019, algorithm 2), and the
// global gradient norm.
//
//   m = b1 m + (1-b1) g    v = b2 v + (1-b2) g^2    (g already times grad_scale)
//   w = w - lr (m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + decay w)
//
// Dtypes        master, m, v, grad f32; `low` is the bf16 copy the products read, rewritten.
// No skipping   a weight whose gradient is zero is stepped like any other: moments and decay act.
// Determinism   element-wise; the norm sums f64 partial sums in a fixed order: same bits for the
//               same tensors and any thread count.
#pragma once
#include <span>

#include "kernels/core/context.h"

namespace nestling {

struct AdamWTensor {
  View master;     // [n...] dense, updated
  View m, v;       // like master, updated
  ConstView grad;  // like master
  View low = {};   // bf16, like master (own pitch), overwritten
  float lr;        // of this tensor's group
  float decay;
};

struct AdamWStep {
  std::span<const AdamWTensor> tensors;
  float beta1, beta2, eps;
  int64_t step;             // 1 for the first
  float grad_scale = 1.0f;  // clipping and loss scaling
};

// norm = sqrt(sum of squares) over all tensors, in f64. Infinite or NaN gradients show in it.
struct GlobalNorm {
  View norm;  // [1] f64, overwritten
  std::span<const ConstView> grads;
};

void adamw_step(Context& ctx, const AdamWStep& a);
void global_norm(Context& ctx, const GlobalNorm& a);

namespace cpu {
void run(Context& ctx, const AdamWStep& a);
void run(Context& ctx, const GlobalNorm& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const AdamWStep& a);
void run(Context& ctx, const GlobalNorm& a);
}  // namespace cuda

}  // namespace nestling
