// product.h - y = x W^T with a weight that may be quantized: linear (kernels/ops/linear.h), or the products of codes
// (fp8_linear.h, nvfp4_linear.h, quantized_experts.h), by what the weight holds. Forward alone takes codes: a backward
// refuses them.
//
// Shapes        x [T, K]   w [N, K]   y [T, N]; of experts w [E, N, K], rows by offsets [E+1] as in kernels/ops/experts.h
// Ranges        where w.largest_input is given, it is raised to the largest |x|, infinity where an x is not finite: what
//               scales of activations are made of. On the CPU alone; one forward at a time.
#pragma once
#include "kernels/core/context.h"
#include "model/weight.h"

namespace nestling {

struct Product {
  View y;       // [T, N] overwritten, unless accumulate
  ConstView x;  // [T, K]
  Weight w;     // [N, K]
  bool accumulate = false;
};
void product(Context& ctx, const Product& a);

struct ExpertProduct {
  View y;             // [R, N] overwritten
  ConstView x;        // [R, K]
  Weight w;           // [E, N, K]
  ConstView offsets;  // [E+1]
};
void expert_product(Context& ctx, const ExpertProduct& a);

}  // namespace nestling
