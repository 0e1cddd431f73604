// unit_sums.h - sums over tokens by which units are ranked (trainer/importance.h), where the activations are.
//
// Shapes        x [T, C]   rows [R, D], weight [T, k], order [R], offsets [E+1] as in experts.h
// Dtypes        x and rows f32, or off the CPU bf16; all else f32, sums f64.
// Precision     every term is made and added in f64.
// Elasticity    widths come from the views.
// Scratch       CUDA: R or T f64, and of magnitudes up to 64 C f64.
// Determinism   same inputs and shapes: same bits. On the CPU with any number of threads.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

// sums[c] += sum over rows of |x[row, c]|
struct MagnitudeSums {
  View sums;               // [C], or [E, C]: of each expert's rows, f64 accumulated
  ConstView x;             // [T, C]
  ConstView offsets = {};  // [E+1] i32, where there are experts
};
// sums[e] += sum over the rows r of expert e of weight[order[r]] |rows[r]|, the L2 norm
struct ExpertNormSums {
  View sums;         // [E] f64 accumulated
  ConstView rows;    // [R, D]
  ConstView weight;  // [T, k]
  ConstView order;   // [R] i32
  ConstView offsets;
};
// sum += sum over rows of the cosine distance 1 - cosine(a[row], b[row]); a row of zeros has no direction, and adds 0
struct CosineDistanceSum {
  View sum;        // [1] f64 accumulated
  ConstView a, b;  // [T, D] f32
};
// sum += sum over all elements of a b
struct ProductSum {
  View sum;        // [1] f64 accumulated
  ConstView a, b;  // [T, D] f32
};

void add_magnitudes(Context& ctx, const MagnitudeSums& a);
void add_expert_norms(Context& ctx, const ExpertNormSums& a);
void add_cosine_distances(Context& ctx, const CosineDistanceSum& a);
void add_products(Context& ctx, const ProductSum& a);

namespace cpu {
void run(Context& ctx, const MagnitudeSums& a);
void run(Context& ctx, const ExpertNormSums& a);
void run(Context& ctx, const CosineDistanceSum& a);
void run(Context& ctx, const ProductSum& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const MagnitudeSums& a);
void run(Context& ctx, const ExpertNormSums& a);
void run(Context& ctx, const CosineDistanceSum& a);
void run(Context& ctx, const ProductSum& a);
}  // namespace cuda

}  // namespace nestling
