// nvfp4_linear.h - y = x W^T on NVFP4 operands (kernels/core/nvfp4.h), as checkpoints quantized to it hold them:
// weights are codes, scales of blocks and a scale; activations become such by a scale that calibration found, the
// scales of their blocks by what they are. Forward alone.
//
//   y = input_scale w.scale sum_b s_x[t, b] s_w[n, b] sum_i c_x[t, 16 b + i] c_w[n, 16 b + i]
//   s_x[t, b] = E4M3(clamp(largest |x| of the block / (6 input_scale), 2^-9, 448)), 1 for a block of zeros
//   c_x[t, k] = E2M1(x[t, k] / (s_x[t, k / 16] input_scale))
//
// Shapes        x [T, K]   w [N, K]   y [T, N], of quantize x [R, K], codes [R, K/2], scales [R, K/16]. K in multiples
//               of 16.
// Dtypes        codes u8, two a byte; scales of blocks f8_e4m3, none below zero; x and y each f32 or, but on the CPU,
//               bf16. Scales of tensors are host floats: their 512th part a normal f32, 2688 times they finite, and
//               their product a normal f32. 2688 = 6 * 448: a tensor's scale is its largest size / 2688.
// Rounding      of quantize: 6 scale, the quotients and s scale are rounded to f32 each, codes and s to nearest even.
//               An infinity, and what is beyond 2688 scales, becomes the largest code and scale. A NaN makes the scale
//               of its block NaN and all 16 codes 7, so that it stays in its row of y. The sign of a code is set where
//               the quotient is below zero: -0 becomes 0.
// Sums          values of codes times their block's scale, and products of two of them, are exact in f32; sums are f32.
//               The product of the tensors' scales is rounded once, to f32, and multiplies each sum once: with the
//               rounding of y three roundings at most (2^-24 each, y in bf16: 2^-9). How many bits the tensor
//               cores keep of sums NVIDIA does not state.
// Elasticity    K and N come from the views: w.prefix(0, n).prefix(1, k) is the smaller model, k in multiples of 16. It
//               keeps the parent's scale, and its codes and blocks do not change.
// Alignment     any. On CUDA codes are multiplied where those of w begin at a multiple of 16 bytes, their row pitch is one
//               and K is a multiple of 32, so that rows are whole 16 bytes; and y begins at a multiple of 16 bytes, its
//               rows and pitch being whole 16 bytes (N in multiples of 4 in f32, of 8 in bf16): cuBLASLt's
//               FP4 products need it. For all others codes times the scales of their blocks become bf16, exactly, and
//               are multiplied as such, with f32 sums: at a quarter of the speed or less, in scratch of
//               2 bytes an element of x and at most 32 MiB (or 64 rows) of w; a weight moves 4.6 bytes
//               instead of 0.6. Results of both ways agree within what Sums says. Scales of blocks, x, and the
//               operands of nvfp4_quantize: fastest where rows of x start at multiples of 16 bytes, those of codes of 8.
// Devices       CUDA: all; below compute capability 10.0 always by bf16. A rehearsal takes the scratch of both ways.
//               cuBLASLt reads scales of blocks in tiles: those of x are written so, those of w copied so in every
//               call, an eighth of the bytes of the codes; of a prefix that much of the prefix.
// Decoding      on the CPU up to four rows of x are multiplied as codes (kernels/cpu/gemv.h); for more the weights are
//               widened in memory, a block at a time.
// Determinism   Same inputs, shapes, threads and device: same bits.
// Source        ModelOpt's NVFP4 checkpoints: weight u8 [N, K/2], weight_scale f8_e4m3 [N, K/16], weight_scale_2 f32,
//               input_scale f32; arithmetic: its nvfp4_tensor.py.
#pragma once
#include "kernels/core/context.h"
#include "kernels/core/nvfp4.h"

namespace nestling {

// A matrix of NVFP4, cut as one.
struct Nvfp4 {
  ConstView codes;   // [rows, cols / 2] u8
  ConstView scales;  // [rows, cols / 16] f8_e4m3, none below zero
  float scale;       // of the tensor; its prefixes keep it

  int64_t rows() const { return codes.dim(0); }
  int64_t cols() const { return 2 * codes.dim(1); }
  // Bit for bit the values of the parent. Columns (d 1) in whole blocks.
  Nvfp4 prefix(int d, int64_t n) const {
    if (d == 0) return {codes.prefix(0, n), scales.prefix(0, n), scale};
    NESTLING_CHECK(n % kNvfp4Block == 0, n, " columns of NVFP4 are no whole blocks of 16");
    return {codes.prefix(1, n / 2), scales.prefix(1, n / kNvfp4Block), scale};
  }
};

struct Nvfp4Linear {
  View y;       // [T, N] overwritten, unless accumulate
  ConstView x;  // [T, K]
  Nvfp4 w;      // [N, K]
  float input_scale;
  bool accumulate = false;  // y += instead of y = (y f32)
};

// Codes and scales of blocks: of activations before a product, and of weights for a checkpoint.
struct Nvfp4Quantize {
  View codes;   // [R, K/2] u8, overwritten
  View scales;  // [R, K/16] f8_e4m3, overwritten
  ConstView x;  // [R, K] f32, or but on the CPU bf16
  float scale;  // of the tensor
};

void nvfp4_linear(Context& ctx, const Nvfp4Linear& a);
void nvfp4_quantize(Context& ctx, const Nvfp4Quantize& a);

// What the sums of a product are multiplied by.
inline float nvfp4_product_scale(const Nvfp4Linear& a) {
  return static_cast<float>(double{a.input_scale} * double{a.w.scale});
}

namespace cpu {
void run(Context& ctx, const Nvfp4Linear& a);
void run(Context& ctx, const Nvfp4Quantize& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Nvfp4Linear& a);
void run(Context& ctx, const Nvfp4Quantize& a);
}  // namespace cuda

}  // namespace nestling
