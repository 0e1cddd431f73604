// fp8_linear.h - y = x W^T on FP8 operands, as checkpoints quantized after training hold them: weights
// are codes and a scale, activations become codes by a scale that calibration found. Forward alone.
//
//   y = input_scale weight_scale sum_k code(x[t, k] / input_scale) w[n, k]
//   code(v): v in f32, to the nearest even E4M3, at most 448 of either sign; NaN stays NaN (f8e4m3.h)
//
// Shapes        x [T, K]   w [N, K]   y [T, N]; codes and x of fp8_quantize alike, any rank whose rows are
//               equally spaced
// Dtypes        w and codes f8_e4m3; x and y each f32 or, but on the CPU, bf16. Scales are host floats:
//               finite, above zero, and their product a normal f32.
// Sums          products of codes are exact in f32; sums are f32. The product of the scales is rounded once, to
//               f32, and multiplies each sum once: with the rounding of y three roundings at most (2^-24 each,
//               y in bf16: 2^-9), whatever K. Hopper's tensor cores keep fewer bits than f32 has: about 14 of
//               an instruction's terms and of the sum they are added to (DeepSeek-V3, arXiv 2412.19437,
//               sections 3.3.2 and 3.5.2: measured; NVIDIA states none). cuBLASLt's fast accumulation is
//               off, so that it adds partial sums in f32 every so many terms.
// Elasticity    K and N come from the views, as in linear.h: w.prefix(0, n).prefix(1, k) is the smaller
//               model. The scales are those of the parent, and its codes do not change.
// Alignment     any. On CUDA codes are multiplied where w begins at a multiple of 16 bytes, K, N and its row pitch are
//               multiples of 16, and y and its rows begin at multiples of 16 bytes: cuBLASLt's FP8 products need it. For
//               all others codes of x and w become bf16, exactly, and are multiplied as such, with f32 sums: by tensor
//               cores too, at half the speed, in scratch of 2 bytes an element of x and at most 32 MiB (or
//               64 rows) of w; a weight moves 5 bytes instead of 1. Results of both ways agree
//               within what Sums says. x, and both operands of fp8_quantize: fastest where rows start at
//               multiples of 16 bytes.
// Devices       CUDA: all; below compute capability 8.9 always by bf16. A rehearsal takes the scratch of both ways.
// Decoding      on the CPU up to four rows of x are multiplied with codes that become f32 in registers (kernels/cpu/gemv.h);
//               for more the weights are widened in memory, a block at a time.
// Determinism   Same inputs, shapes, threads and device: same bits.
// Source        ModelOpt's FP8 checkpoints: weight f8_e4m3, weight_scale = largest / 448, input_scale.
#pragma once
#include "kernels/core/context.h"
#include "kernels/core/f8e4m3.h"

namespace nestling {

struct Fp8Linear {
  View y;       // [T, N] overwritten, unless accumulate
  ConstView x;  // [T, K]
  ConstView w;  // [N, K] codes
  float input_scale;
  float weight_scale;
  bool accumulate = false;  // y += instead of y = (y f32)
};

// codes = code(x / scale): activations before a product, and weights for a checkpoint.
struct Fp8Quantize {
  View codes;   // as x, overwritten
  ConstView x;  // f32, or but on the CPU bf16
  float scale;
};

void fp8_linear(Context& ctx, const Fp8Linear& a);
void fp8_quantize(Context& ctx, const Fp8Quantize& a);

// What the sums of a product are multiplied by.
inline float fp8_product_scale(const Fp8Linear& a) {
  return static_cast<float>(double{a.input_scale} * double{a.weight_scale});
}

namespace cpu {
void run(Context& ctx, const Fp8Linear& a);
void run(Context& ctx, const Fp8Quantize& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Fp8Linear& a);
void run(Context& ctx, const Fp8Quantize& a);
}  // namespace cuda

}  // namespace nestling
