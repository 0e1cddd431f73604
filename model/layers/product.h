// product.h - y = x W^T with a weight that may be quantized: linear (kernels/ops/linear.h), or the products of codes
// (fp8_linear.h, nvfp4_linear.h, quantized_experts.h), by what the weight holds; and its gradients.
//
// Shapes        x [T, K]   w [N, K]   y [T, N]; of experts w [E, N, K], rows by offsets [E+1] as in kernels/ops/experts.h
// Backward      of codes is straight-through: the gradients of y = v_x v_w^T, of what the codes of x and w stand for, are
//               taken as those of x and w themselves, of x also where it is beyond the largest code. v_x and v_w are
//               made again in scratch, of x's type (kernels/ops/dequantize.h), and multiplied as linear_backward
//               does: of a layer of experts all of v_w at once.
// Ranges        where w.largest_input is given, it is raised to the largest |x|, infinity where an x is not finite: what
//               scales of activations are made of (kernels/ops/largest.h).
// Source        straight-through: Bengio et al., arXiv 1308.3432; fake-quantized forward, gradients in high precision:
//               quantization-aware distillation, arXiv 2601.20088.
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

struct ProductBackward {
  View dx = {};  // [T, K] overwritten, unless accumulate_dx; leave out where not needed
  View dw = {};  // [N, K] accumulated, unless told otherwise; leave out for a frozen weight
  ConstView dy;  // [T, N]
  ConstView x;   // [T, K] saved by forward
  Weight w;      // [N, K]
  bool accumulate_dx = false;
  bool accumulate_dw = true;
};
void product_backward(Context& ctx, const ProductBackward& a);

struct ExpertProduct {
  View y;             // [R, N] overwritten
  ConstView x;        // [R, K]
  Weight w;           // [E, N, K]
  ConstView offsets;  // [E+1]
};
void expert_product(Context& ctx, const ExpertProduct& a);

struct ExpertProductBackward {
  View dx;       // [R, K] overwritten
  View dw = {};  // [E, N, K] as above
  ConstView dy;  // [R, N]
  ConstView x;   // [R, K]
  Weight w;      // [E, N, K]
  ConstView offsets;
  bool accumulate_dw = true;
};
void expert_product_backward(Context& ctx, const ExpertProductBackward& a);

}  // namespace nestling
