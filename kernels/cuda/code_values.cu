// code_values.cu - codes become bf16, or f32.
//
// Widening      a thread makes 8 values: it reads 8 bytes of FP8 codes, 4 of NVFP4 and their block's scale, and writes
//               16 or 32 at once, beside those of its neighbours; where rows start elsewhere, it reads byte by byte and
//               writes value by value: the same bits.
#include <cstring>

#include <cuda_bf16.h>

#include "kernels/core/nvfp4.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops/dequantize.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 8;  // values of a thread

// Of kernels/core/nvfp4.h.
__device__ float e2m1_value(unsigned code) {
  const unsigned size = code & 7u;
  const float value =
      size < 2 ? static_cast<float>(size) * 0.5f : __uint_as_float((size << 22) + (126u << 23));
  return __uint_as_float((code & 8u) << 28 | __float_as_uint(value));
}

struct CodeMatrix {
  const unsigned char* data;
  int64_t expert, pitch;  // elements between experts, and rows
  __device__ const unsigned char* row(int64_t e, int64_t r) const {
    return data + e * expert + r * pitch;
  }
};

template <class Y>
struct Widening {
  Y* out;
  CodeMatrix codes, block_scales;
  const int32_t* offsets;      // null: all experts have rows, or there are none
  const float* expert_scales;  // null: `scale`
  float scale;
  bool out_aligned;  // rows start at multiples of 16 bytes
  int64_t out_expert, out_pitch, rows, cols;
};

// kBytes of codes as bytes, the first `count` of them.
template <int kBytes, bool kAligned>
__device__ void read_codes(unsigned char (&to)[kBytes], const unsigned char* from, int64_t count) {
  if (kAligned && count == kBytes) {
    if constexpr (kBytes == 8) {
      const uint2 bits = *reinterpret_cast<const uint2*>(from);
      memcpy(to, &bits, sizeof bits);
    } else {
      const unsigned bits = *reinterpret_cast<const unsigned*>(from);
      memcpy(to, &bits, sizeof bits);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kBytes; ++i) to[i] = i < count ? from[i] : 0;
}

// The values of columns [col, col + count) of a row.
template <bool kNvfp4, bool kAligned, class Y>
__device__ void read_values(float (&x)[kPiece], const Widening<Y>& w, int64_t e, int64_t row,
                            int64_t col, int64_t count) {
  if constexpr (kNvfp4) {
    unsigned char pairs[kPiece / 2];
    read_codes<kPiece / 2, kAligned>(pairs, w.codes.row(e, row) + col / 2, kPiece / 2);
    const float scale = e4m3_value(w.block_scales.row(e, row)[col / kNvfp4Block]);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = scale * e2m1_value(pairs[i / 2] >> i % 2 * 4);
  } else {
    unsigned char codes[kPiece];
    read_codes<kPiece, kAligned>(codes, w.codes.row(e, row) + col, count);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = e4m3_value(codes[i]);
  }
}

__device__ void store_piece(__nv_bfloat16* to, const float (&x)[kPiece]) {
  store_vector(to, bits_of(x[0], x[1]), bits_of(x[2], x[3]), bits_of(x[4], x[5]),
               bits_of(x[6], x[7]));
}
__device__ void store_piece(float* to, const float (&x)[kPiece]) {
  store_vector(to, x[0], x[1], x[2], x[3]);
  store_vector(to + 4, x[4], x[5], x[6], x[7]);
}

template <bool kNvfp4, bool kAligned, class Y>
__global__ void __launch_bounds__(kThreads) widen_kernel(Widening<Y> w) {
  const int64_t e = blockIdx.y;
  if (w.offsets != nullptr && w.offsets[e] == w.offsets[e + 1]) return;
  const float scale = w.expert_scales == nullptr ? w.scale : w.expert_scales[e];
  const int64_t width = (w.cols + kPiece - 1) / kPiece;
  for (int64_t i = first_item(); i < w.rows * width; i += item_step()) {
    const int64_t row = i / width;
    const int64_t col = i % width * kPiece;
    const int64_t count = min(int64_t{kPiece}, w.cols - col);
    float x[kPiece];
    read_values<kNvfp4, kAligned>(x, w, e, row, col, count);
#pragma unroll
    for (int k = 0; k < kPiece; ++k) x[k] *= scale;
    Y* to = w.out + e * w.out_expert + row * w.out_pitch + col;
    if (w.out_aligned && count == kPiece) {
      store_piece(to, x);
      continue;
    }
    for (int64_t k = 0; k < count; ++k) store(to + k, x[k]);
  }
}

CodeMatrix code_matrix(ConstView v) {
  if (!v) return {};
  return {reinterpret_cast<const unsigned char*>(v.data()), v.rank() == 3 ? v.stride(0) : 0,
          v.stride(v.rank() - 2)};
}

// `a` as dequantize.h has it; `offsets` as code_values.h.
template <class Y>
void widen_to(Context& ctx, const Dequantize& a, ConstView offsets) {
  const bool nvfp4 = static_cast<bool>(a.block_scales);
  const bool stack = a.y.rank() == 3;
  const int64_t cols = a.y.dim(a.y.rank() - 1);
  const Widening<Y> w{.out = elements<Y>(a.y),
                      .codes = code_matrix(a.codes),
                      .block_scales = code_matrix(a.block_scales),
                      .offsets = offsets ? offsets.ptr<int32_t>() : nullptr,
                      .expert_scales = a.expert_scales ? a.expert_scales.ptr<float>() : nullptr,
                      .scale = a.scale,
                      .out_aligned = rows_aligned(a.y, 16),
                      .out_expert = stack ? a.y.stride(0) : 0,
                      .out_pitch = a.y.stride(a.y.rank() - 2),
                      .rows = a.y.dim(a.y.rank() - 2),
                      .cols = cols};
  const bool aligned = rows_aligned(a.codes, nvfp4 ? kPiece / 2 : kPiece);
  dim3 blocks = blocks_for(w.rows * ((cols + kPiece - 1) / kPiece), kThreads);
  if (stack) blocks.y = static_cast<unsigned>(a.y.dim(0));
  const auto kernel =
      nvfp4 ? (aligned ? widen_kernel<true, true, Y> : widen_kernel<true, false, Y>)
            : (aligned ? widen_kernel<false, true, Y> : widen_kernel<false, false, Y>);
  launch(ctx, {blocks, kThreads}, kernel, w);
}

}  // namespace

void widen(Context& ctx, View to, ConstView codes, ConstView block_scales, ConstView offsets) {
  widen_to<__nv_bfloat16>(ctx, {.y = to, .codes = codes, .block_scales = block_scales}, offsets);
}

void run(Context& ctx, const Dequantize& a) {
  if (a.y.dtype() == DType::kBF16)
    widen_to<__nv_bfloat16>(ctx, a, {});
  else
    widen_to<float>(ctx, a, {});
}

}  // namespace nestling::cuda
