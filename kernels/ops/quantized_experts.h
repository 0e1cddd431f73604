// quantized_experts.h - the grouped product of experts (experts.h) on weights that are codes: FP8 (fp8_linear.h) or
// NVFP4 (nvfp4_linear.h), whichever `codes` are. Forward alone.
//
//   y[rows of e] = input_scale scales[e] sum_k v_x[r, k] v_w[e, n, k]
//   v: the values of codes, of NVFP4 times the scales of their blocks; x becomes codes by input_scale as there
//
// Shapes        x [R, K]   codes [E, N, K], of NVFP4 [E, N, K/2]   block_scales [E, N, K/16], of FP8 absent
//               scales [E]   y [R, N]   offsets [E+1]: expert e owns rows [offsets[e], offsets[e+1]), none too. K of
//               NVFP4 in multiples of 16.
// Dtypes        codes f8_e4m3, of NVFP4 u8; block_scales f8_e4m3, none below zero; scales f32; x and y each f32 or, but
//               on the CPU, bf16.
// Scales        as in fp8_linear.h and nvfp4_linear.h, one a tensor: of the weights one an expert, on the context's
//               device; of the activations one for all experts, on the host. The CPU refuses what is no scale by name;
//               a device multiplies by what it finds.
// Sums          as in linear.h: every value is exact in bf16 and products of two in f32, sums are f32; on the CPU, with
//               few rows of an expert, those of eight products of NVFP4 are exact (kernels/cpu/gemv.h). An expert's
//               product of scales is rounded once, to f32, and multiplies each sum once: with the rounding of y three
//               roundings at most (2^-24 each, y in bf16: 2^-9), whatever K.
// Elasticity    E, N and K come from the views: codes.prefix(0, experts).prefix(1, n).prefix(2, k), block_scales
//               alike. Scales are those of the parent, and its codes do not change.
// Alignment     any. CUDA: fastest where rows of codes start at multiples of 8 bytes (of NVFP4: 4) and K is a multiple
//               of 8, N one of 4.
// Devices       CUDA: all; products are those of bf16 (expert_linear_forward).
// Scratch       CUDA: 2 E N K bytes, the weights in bf16, but at most 512 MiB or those of one expert, groups of experts one
//               after another; those of experts that have rows are written and read again in every call: twice the
//               bytes of a layer's FP8 codes, 3.6 times those of its NVFP4. 3 R K bytes at most for x; 4 R N for sums
//               where y is bf16 or its rows are no whole 16 bytes. CPU: 4 R K (NVFP4: 4.6) and about 1 MiB a thread, of
//               NVFP4 0.6 R K alone where no expert has more than 4 rows.
// Determinism   Same inputs, shapes and device: same bits. On the CPU whatever the threads.
// Source        ModelOpt's checkpoints of mixtures: scales of weights one an expert and projection. An input_scale that
//               differs from expert to expert takes a call for each.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct QuantizedExpertLinear {
  View y;                  // [R, N] overwritten
  ConstView x;             // [R, K]
  ConstView codes;         // [E, N, K], of NVFP4 [E, N, K/2]
  ConstView block_scales;  // [E, N, K/16]; of FP8 absent
  ConstView scales;        // [E]
  ConstView offsets;       // [E+1] i32
  float input_scale;
};

void quantized_expert_linear(Context& ctx, const QuantizedExpertLinear& a);

// What the sums of an expert are multiplied by.
inline float quantized_expert_scale(float input_scale, float scale) {
  return static_cast<float>(double{input_scale} * double{scale});
}

namespace cpu {
void run(Context& ctx, const QuantizedExpertLinear& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const QuantizedExpertLinear& a);
}  // namespace cuda

}  // namespace nestling
