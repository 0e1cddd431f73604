// adamw.h - AdamW over many tensors at once (Loshchilov and Hutter 2019, algorithm 2), and the
// global gradient norm.
//
//   m = b1 m + (1-b1) g    v = b2 v + (1-b2) g^2    (g already times grad_scale)
//   w = w - lr (m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + decay w)
//
// Dtypes        master, m, v, grad f32; `low` is the bf16 copy the products read, rewritten.
// No skipping   a weight whose gradient is zero is stepped like any other: moments and decay act.
// Determinism   element-wise: a tensor may be stepped in pieces. The norm adds f64 sums of squares of blocks of
//               kNormBlock elements, in the order of the blocks: same bits for the same tensors and any thread
//               count, and where ranks hold the blocks' sums of a part of the tensors each, as of the whole.
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

inline constexpr int64_t kNormBlock = 16384;
int64_t norm_blocks(int64_t elements);  // of one tensor; a block never spans two
int64_t norm_blocks(std::span<const ConstView> grads);

// The sum of squares of every block, in f64, one tensor's blocks behind another's.
struct SquareSums {
  View sums;  // [norm_blocks(grads)] f64, overwritten
  std::span<const ConstView> grads;
};
// norm = sqrt(sum of sums). Infinite or NaN gradients show in it.
struct NormOfSums {
  View norm;       // [1] f64, overwritten
  ConstView sums;  // [blocks] f64, dense
};
// Both, over all tensors.
struct GlobalNorm {
  View norm;  // [1] f64, overwritten
  std::span<const ConstView> grads;
};

void adamw_step(Context& ctx, const AdamWStep& a);
void square_sums(Context& ctx, const SquareSums& a);
void norm_of_sums(Context& ctx, const NormOfSums& a);
void global_norm(Context& ctx, const GlobalNorm& a);

namespace cpu {
void run(Context& ctx, const AdamWStep& a);
void run(Context& ctx, const SquareSums& a);
void run(Context& ctx, const NormOfSums& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const AdamWStep& a);
void run(Context& ctx, const SquareSums& a);
void run(Context& ctx, const NormOfSums& a);
}  // namespace cuda

}  // namespace nestling
