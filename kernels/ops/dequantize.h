// dequantize.h - the values of codes of FP8 (fp8_linear.h) or NVFP4 (nvfp4_linear.h), whichever they are: what the
// backward of a product multiplies, whose forward multiplied the codes.
//
//   y = scale code                 FP8
//   y = scale block_scale code     NVFP4
//
// Shapes        y [N, K], or [E, N, K] of experts   codes as y, of NVFP4 [.., K/2]   block_scales [.., K/16], of FP8 absent
//               expert_scales [E] of experts, absent of a matrix
// Dtypes        y f32, or but on the CPU bf16; codes f8_e4m3, of NVFP4 u8; block_scales f8_e4m3; scales f32.
// Rounding      the value of a code, times that of its block's scale, is exact; times the tensor's scale it is rounded once
//               to f32, and to bf16 from there.
// Scales        a matrix's on the host, experts' on the context's device. They are multiplied as they are found.
// Alignment     any. CUDA: fastest where rows start at multiples of 16 bytes (of FP8 codes 8, of NVFP4's 4).
// Determinism   same inputs, same bits, on every device.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct Dequantize {
  View y;                        // overwritten
  ConstView codes;               // as in weights' and activations' products
  ConstView block_scales = {};   // NVFP4
  ConstView expert_scales = {};  // [E]; then `scale` is not read
  float scale = 1;
};

void dequantize(Context& ctx, const Dequantize& a);

namespace cpu {
void run(Context& ctx, const Dequantize& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Dequantize& a);
}  // namespace cuda

}  // namespace nestling
