// quantized_experts.h - the CUDA side of kernels/ops/quantized_experts.h, on operands already checked.
#pragma once
#include "kernels/ops/quantized_experts.h"

namespace nestling::cuda {

// With the bytes of bf16 weights at a time made explicit, for tests: those of one expert at least.
void quantized_expert_linear(Context& ctx, const QuantizedExpertLinear& a, int64_t weight_bytes);

}  // namespace nestling::cuda
