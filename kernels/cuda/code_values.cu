// code_values.cu - codes become bf16.
//
// Widening      a thread makes 8 values: it reads 8 bytes of FP8 codes, 4 of NVFP4 and their block's scale, and writes
//               16 at once, beside those of its neighbours; where rows of codes start elsewhere, it reads byte by byte:
//               the same bits.
#include <cstring>

#include <cuda_bf16.h>

#include "kernels/core/nvfp4.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"

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

struct Widening {
  __nv_bfloat16* out;  // rows start at multiples of 16 bytes
  CodeMatrix codes, block_scales;
  const int32_t* offsets;  // null: all experts have rows, or there are none
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
template <bool kNvfp4, bool kAligned>
__device__ void read_values(float (&x)[kPiece], const Widening& w, int64_t e, int64_t row,
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

template <bool kNvfp4, bool kAligned>
__global__ void __launch_bounds__(kThreads) widen_kernel(Widening w) {
  const int64_t e = blockIdx.y;
  if (w.offsets != nullptr && w.offsets[e] == w.offsets[e + 1]) return;
  const int64_t width = (w.cols + kPiece - 1) / kPiece;
  for (int64_t i = first_item(); i < w.rows * width; i += item_step()) {
    const int64_t row = i / width;
    const int64_t col = i % width * kPiece;
    const int64_t count = min(int64_t{kPiece}, w.cols - col);
    float x[kPiece];
    read_values<kNvfp4, kAligned>(x, w, e, row, col, count);
    __nv_bfloat16* to = w.out + e * w.out_expert + row * w.out_pitch + col;
    if (count == kPiece) {
      store_vector(to, bits_of(x[0], x[1]), bits_of(x[2], x[3]), bits_of(x[4], x[5]),
                   bits_of(x[6], x[7]));
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

}  // namespace

void widen(Context& ctx, View to, ConstView codes, ConstView block_scales, ConstView offsets) {
  const bool nvfp4 = static_cast<bool>(block_scales);
  const bool stack = to.rank() == 3;
  const int64_t cols = to.dim(to.rank() - 1);
  const Widening w{.out = bf16_of(to),
                   .codes = code_matrix(codes),
                   .block_scales = code_matrix(block_scales),
                   .offsets = offsets ? offsets.ptr<int32_t>() : nullptr,
                   .out_expert = stack ? to.stride(0) : 0,
                   .out_pitch = to.stride(to.rank() - 2),
                   .rows = to.dim(to.rank() - 2),
                   .cols = cols};
  const bool aligned = rows_aligned(codes, nvfp4 ? kPiece / 2 : kPiece);
  dim3 blocks = blocks_for(w.rows * ((cols + kPiece - 1) / kPiece), kThreads);
  if (stack) blocks.y = static_cast<unsigned>(to.dim(0));
  const auto kernel = nvfp4 ? (aligned ? widen_kernel<true, true> : widen_kernel<true, false>)
                            : (aligned ? widen_kernel<false, true> : widen_kernel<false, false>);
  launch(ctx, {blocks, kThreads}, kernel, w);
}

}  // namespace nestling::cuda
