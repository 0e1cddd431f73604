// quantized_experts.cu - one product an expert on weights that are codes: all values are exact in bf16, and the
// products are those of expert_linear_forward.
//
// Widening      a thread makes 8 values: it reads 8 bytes of FP8 codes, 4 of NVFP4 and their block's scale, and writes
//               16 at once, beside those of its neighbours; where rows of codes start elsewhere, it reads byte by byte:
//               the same bits. Blocks of an expert without rows return, and nobody reads what they would have written.
// Scales        a warp multiplies a row of sums by its expert's, which it finds in the offsets.
// Sums          are made in y itself where that is f32 and its rows are whole 16 bytes, else in scratch whose rows
//               start there, so that the kernels and the bits of a product do not depend on where y lies.
#include <cstring>

#include <cuda_bf16.h>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rounded.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/ops/quantized_experts.h"

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
  const int32_t* offsets;  // null: all experts have rows
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
  return {reinterpret_cast<const unsigned char*>(v.data()), v.stride(0), v.stride(1)};
}

// [E, rows, cols] bf16 in scratch.
View widened(Context& ctx, ConstView codes, ConstView block_scales, const int32_t* offsets) {
  const bool nvfp4 = static_cast<bool>(block_scales);
  const int64_t experts = codes.dim(0);
  const int64_t rows = codes.dim(1);
  const int64_t cols = nvfp4 ? 2 * codes.dim(2) : codes.dim(2);
  const View out =
      aligned_scratch(ctx, DType::kBF16, experts * rows, cols).reshape({experts, rows, cols});
  const Widening w{.out = bf16_of(out),
                   .codes = code_matrix(codes),
                   .block_scales = code_matrix(block_scales),
                   .offsets = offsets,
                   .out_expert = out.stride(0),
                   .out_pitch = out.stride(1),
                   .rows = rows,
                   .cols = cols};
  const bool aligned = rows_aligned(codes, nvfp4 ? kPiece / 2 : kPiece);
  dim3 blocks = blocks_for(rows * ((cols + kPiece - 1) / kPiece), kThreads);
  blocks.y = static_cast<unsigned>(experts);
  const auto kernel = nvfp4 ? (aligned ? widen_kernel<true, true> : widen_kernel<true, false>)
                            : (aligned ? widen_kernel<false, true> : widen_kernel<false, false>);
  launch(ctx, {blocks, kThreads}, kernel, w);
  return out;
}

// The values of x's codes, [R, K] bf16 in scratch.
View values_of(Context& ctx, const QuantizedExpertLinear& a) {
  const int64_t rows = a.x.dim(0);
  const int64_t cols = a.x.dim(1);
  const auto as_one_expert = [](ConstView v) { return v.reshape({1, v.dim(0), v.dim(1)}); };
  View values;
  if (a.block_scales) {
    const View codes = aligned_scratch(ctx, DType::kU8, rows, cols / 2);
    const View scales = ctx.scratch().alloc(DType::kF8E4M3, {rows, cols / kNvfp4Block});
    run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
    values = widened(ctx, as_one_expert(codes), as_one_expert(scales), nullptr);
  } else {
    const View codes = aligned_scratch(ctx, DType::kF8E4M3, rows, cols);
    run(ctx, Fp8Quantize{.codes = codes, .x = a.x, .scale = a.input_scale});
    values = widened(ctx, as_one_expert(codes), {}, nullptr);
  }
  return values.reshape({rows, cols});
}

template <class Y>
struct ScaledRows {
  Y* y;
  const float* sums;  // may be y
  const int32_t* offsets;
  const float* scales;
  int64_t y_pitch, sums_pitch, rows, cols;
  int experts;
  float input_scale;
};

// The expert that has this row: offsets[e] <= row < offsets[e + 1].
__device__ int expert_of_row(const int32_t* offsets, int experts, int64_t row) {
  int low = 0;
  int high = experts;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <int kN, class Y>
__global__ void __launch_bounds__(kThreads) scale_kernel(ScaledRows<Y> s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t row = first_item() / kWarp; row < s.rows; row += item_step() / kWarp) {
    // The product of the scales, rounded to f32 once.
    const float by = s.input_scale * s.scales[expert_of_row(s.offsets, s.experts, row)];
    for (int64_t col = lane * kN; col < s.cols; col += kWarp * kN) {
      Pack<kN> pack = load_pack<kN>(s.sums + row * s.sums_pitch + col, s.cols - col);
#pragma unroll
      for (int i = 0; i < kN; ++i) pack.v[i] *= by;
      store_pack(s.y + row * s.y_pitch + col, pack, s.cols - col);
    }
  }
}

template <class Y>
void scale_rows(Context& ctx, const QuantizedExpertLinear& a, ConstView sums) {
  const ScaledRows<Y> s{.y = elements<Y>(a.y),
                        .sums = sums.ptr<float>(),
                        .offsets = a.offsets.ptr<int32_t>(),
                        .scales = a.scales.ptr<float>(),
                        .y_pitch = a.y.pitch(),
                        .sums_pitch = sums.pitch(),
                        .rows = a.y.dim(0),
                        .cols = a.y.dim(1),
                        .experts = static_cast<int>(a.codes.dim(0)),
                        .input_scale = a.input_scale};
  const Grid grid{blocks_for(s.rows * kWarp, kThreads), kThreads};
  if (packable(s.y, s.y_pitch) && packable(s.sums, s.sums_pitch))
    launch(ctx, grid, scale_kernel<4, Y>, s);
  else
    launch(ctx, grid, scale_kernel<1, Y>, s);
}

}  // namespace

void run(Context& ctx, const QuantizedExpertLinear& a) {
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const bool in_place = a.y.dtype() == DType::kF32 && whole_rows(a.y, 16);
  const View sums = in_place ? a.y : aligned_scratch(ctx, DType::kF32, a.y.dim(0), a.y.dim(1));
  const View x = values_of(ctx, a);
  const View w = widened(ctx, a.codes, a.block_scales, a.offsets.ptr<int32_t>());
  run(ctx, ExpertLinearForward{.y = sums, .x = x, .w = w, .offsets = a.offsets});
  with_elements(a.y, [&]<class Y>(Y) { scale_rows<Y>(ctx, a, sums); });
}

}  // namespace nestling::cuda
