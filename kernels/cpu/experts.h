// experts.h - the CPU side of kernels/ops/experts.h, on operands already checked.
//
// Threads       expert_products spreads the sorted rows (forward, dx) or the outputs of every
//               expert (dw) evenly over the team, so that uneven experts do not unbalance it.
#pragma once
#include "kernels/cpu/matmul.h"
#include "kernels/ops/experts.h"

namespace nestling::cpu {

// The grouped products with the way of bf16 made explicit, for tests and measurements.
void expert_linear_forward(Context& ctx, const ExpertLinearForward& a, Bf16Path path);
void expert_linear_backward(Context& ctx, const ExpertLinearBackward& a, Bf16Path path);

}  // namespace nestling::cpu
