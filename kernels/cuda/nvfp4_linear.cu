// nvfp4_linear.cu - products of NVFP4 operands by cuBLASLt, and the kernels that make and lay them out for it. Where it
// takes none, products are those of their values (code_values.h).
//
// Codes         a thread makes those of a block: 16 elements are 64 or 32 bytes, read 16 at a time, and 8 bytes of
//               codes, written at once; where rows start elsewhere, one by one: the same bits.
// Tiles         cuBLASLt reads the scales of blocks in tiles of 128 rows and 4 blocks, 512 bytes each, the tiles of 128
//               rows one after another; rows and blocks beyond the matrix are zero. In a tile the four
//               scales of a row lie together, those of rows r, r + 32, r + 64 and r + 96 beside each other.
// Source        cuBLAS documentation, "1D Block Scaling Factors Layout"; what FP4 products ask for: cublasLtMatmul(), the
//               requirements of block-scaled FP4 kernels.
#include <cstring>

#include <cuda_fp8.h>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rounded.h"
#include "kernels/cuda/widened_product.h"
#include "kernels/ops/nvfp4_linear.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kBlock = static_cast<int>(kNvfp4Block);
constexpr int64_t kTileRows = 128, kTileBlocks = 4, kTileBytes = kTileRows * kTileBlocks;

// Where scales of blocks go, and how many rows and blocks of them are written: those that there are,
struct RowMajor {
  unsigned char* scales;
  int64_t row_count, block_count, pitch;
  __device__ unsigned char* at(int64_t row, int64_t block) const {
    return scales + row * pitch + block;
  }
};
// and in tiles whole tiles of them.
struct Tiled {
  unsigned char* scales;
  int64_t row_count, block_count;
  __device__ unsigned char* at(int64_t row, int64_t block) const {
    const int64_t tile = row / kTileRows * (block_count / kTileBlocks) + block / kTileBlocks;
    return scales + tile * kTileBytes + row % 32 * 16 + row % kTileRows / 32 * kTileBlocks +
           block % kTileBlocks;
  }
};

template <class X, class Scales>
struct Quantize {
  const X* x;
  unsigned char* codes;
  int64_t rows, blocks, x_pitch, codes_pitch;
  float scale;
  Scales to;
};

template <bool kAligned, class X>
__device__ void read_block(float* x, const X* from) {
  constexpr int kPiece = kAligned ? 16 / sizeof(X) : 1;
#pragma unroll
  for (int i = 0; i < kBlock; i += kPiece) {
    X piece[kPiece];
    if constexpr (kAligned) {
      const uint4 bits = *reinterpret_cast<const uint4*>(from + i);
      memcpy(piece, &bits, sizeof bits);
    } else {
      piece[0] = from[i];
    }
#pragma unroll
    for (int j = 0; j < kPiece; ++j) x[i + j] = load(piece + j);
  }
}

// The E4M3 scale of a block: see nvfp4_block_scale. As bits a NaN is larger than all numbers.
__device__ unsigned scale_of(const float* x, float tensor_scale) {
  unsigned most = 0;
#pragma unroll
  for (int i = 0; i < kBlock; ++i) most = max(most, __float_as_uint(x[i]) & 0x7fffffffu);
  const float scale = __uint_as_float(most) / (6.0f * tensor_scale);
  const float clamped = scale == 0 ? 1.0f : scale < 0x1.0p-9f ? 0x1.0p-9f : scale;
  return __nv_cvt_float2_to_fp8x2(make_float2(clamped, 0.0f), __NV_SATFINITE, __NV_E4M3) & 0xffu;
}
// As e2m1_code of kernels/core/nvfp4.h.
__device__ unsigned code_of(float x) {
  const float size = fabsf(x);
  const unsigned code = unsigned{!(size <= 0.25f)} + !(size < 0.75f) + !(size <= 1.25f) +
                        !(size < 1.75f) + !(size <= 2.5f) + !(size < 3.5f) + !(size <= 5.0f);
  return x < 0 ? code | 8u : code;
}

template <bool kAligned>
__device__ void write_codes(unsigned char* to, uint2 words) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint2*>(to) = words;
  } else {
#pragma unroll
    for (int j = 0; j < kBlock / 2; ++j)
      to[j] = static_cast<unsigned char>((j < 4 ? words.x : words.y) >> j % 4 * 8);
  }
}

template <bool kAligned, class X, class Scales>
__global__ void __launch_bounds__(kThreads) quantize_kernel(Quantize<X, Scales> q) {
  const int64_t count = q.to.row_count * q.to.block_count;
  for (int64_t i = first_item(); i < count; i += item_step()) {
    const int64_t row = i / q.to.block_count;
    const int64_t block = i % q.to.block_count;
    if (row >= q.rows || block >= q.blocks) {
      *q.to.at(row, block) = 0;
      continue;
    }
    float x[kBlock];
    read_block<kAligned>(x, q.x + row * q.x_pitch + block * kBlock);
    const unsigned scale = scale_of(x, q.scale);
    const float step = e4m3_value(scale) * q.scale;
    unsigned words[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < kBlock; ++j) words[j / 8] |= code_of(x[j] / step) << j % 8 * 4;
    *q.to.at(row, block) = static_cast<unsigned char>(scale);
    write_codes<kAligned>(q.codes + row * q.codes_pitch + block * kBlock / 2,
                          make_uint2(words[0], words[1]));
  }
}

template <class X, class Scales>
void quantize(Context& ctx, View codes, ConstView x, const X* from, float scale, Scales to) {
  const Quantize<X, Scales> q{.x = from,
                              .codes = codes.ptr<uint8_t>(),
                              .rows = x.dim(0),
                              .blocks = x.dim(1) / kBlock,
                              .x_pitch = x.stride(0),
                              .codes_pitch = codes.stride(0),
                              .scale = scale,
                              .to = to};
  const bool aligned = rows_aligned(x, 16) && rows_aligned(codes, 8);
  const Grid grid{blocks_for(to.row_count * to.block_count, kThreads), kThreads};
  if (aligned)
    launch(ctx, grid, quantize_kernel<true, X, Scales>, q);
  else
    launch(ctx, grid, quantize_kernel<false, X, Scales>, q);
}
template <class Scales>
void quantize(Context& ctx, View codes, ConstView x, float scale, Scales to) {
  if (x.dtype() == DType::kBF16)
    quantize(ctx, codes, x, bf16_of(x), scale, to);
  else
    quantize(ctx, codes, x, x.ptr<float>(), scale, to);
}

unsigned char* bytes_of(View v) {
  return reinterpret_cast<unsigned char*>(v.data());
}

// Tiles for the scales of [rows, blocks], in scratch.
View tiles_for(Context& ctx, int64_t rows, int64_t blocks) {
  const auto up = [](int64_t n, int64_t of) { return (n + of - 1) / of * of; };
  return ctx.scratch().alloc(DType::kF8E4M3, {up(rows, kTileRows), up(blocks, kTileBlocks)});
}
Tiled tiled(View tiles) {
  return {.scales = bytes_of(tiles), .row_count = tiles.dim(0), .block_count = tiles.dim(1)};
}

// A thread copies the scales of a row of a tile, 4 bytes.
__global__ void __launch_bounds__(kThreads)
    tile_kernel(Tiled to, const unsigned char* from, int64_t rows, int64_t blocks, int64_t pitch) {
  const int64_t across = to.block_count / kTileBlocks;
  for (int64_t i = first_item(); i < to.row_count * across; i += item_step()) {
    const int64_t row = i / across;
    const int64_t block = i % across * kTileBlocks;
    unsigned word = 0;
    for (int64_t j = 0; j < kTileBlocks; ++j)
      if (row < rows && block + j < blocks)
        word |= unsigned{from[row * pitch + block + j]} << 8 * j;
    *reinterpret_cast<unsigned*>(to.at(row, block)) = word;
  }
}

View tiles_of(Context& ctx, ConstView scales) {
  const View tiles = tiles_for(ctx, scales.dim(0), scales.dim(1));
  launch(ctx, {blocks_for(tiles.size() / kTileBlocks, kThreads), kThreads}, tile_kernel,
         tiled(tiles), reinterpret_cast<const unsigned char*>(scales.data()), scales.dim(0),
         scales.dim(1), scales.stride(0));
  return tiles;
}

// Whether cuBLASLt multiplies these codes as they are.
bool takes_codes(Context& ctx, const Nvfp4Linear& a) {
  constexpr int kFirstWithFp4 = 100;
  return ctx.cuda().capability >= kFirstWithFp4 && whole_rows({a.w.codes, a.y}, 16);
}

void product_of_codes(Context& ctx, const Nvfp4Linear& a) {
  const Arena::Mark mark(ctx.scratch());
  const View codes = aligned_scratch(ctx, DType::kU8, a.x.dim(0), a.w.codes.dim(1));
  const View scales = tiles_for(ctx, a.x.dim(0), a.w.scales.dim(1));
  quantize(ctx, codes, a.x, a.input_scale, tiled(scales));
  run(ctx, Product{.d = a.y,
                   .a = codes,
                   .b = a.w.codes,
                   .transpose_b = true,
                   .accumulate = a.accumulate,
                   .scale = nvfp4_product_scale(a),
                   .a_scales = scales,
                   .b_scales = tiles_of(ctx, a.w.scales)});
}

void product_of_values(Context& ctx, const Nvfp4Linear& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t t = a.x.dim(0);
  const View x = aligned_scratch(ctx, DType::kBF16, t, a.w.cols());
  {
    const Arena::Mark until_widened(ctx.scratch());
    const View codes = aligned_scratch(ctx, DType::kU8, t, a.w.codes.dim(1));
    const View scales = ctx.scratch().alloc(DType::kF8E4M3, {t, a.w.scales.dim(1)});
    run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
    widen(ctx, x, codes, scales);
  }
  const WidenedProduct p{
      .y = a.y, .x = x, .scale = nvfp4_product_scale(a), .accumulate = a.accumulate};
  widened_product(ctx, p, [&](View to, int64_t begin) {
    const int64_t count = to.dim(0);
    widen(ctx, to, a.w.codes.slice(0, begin, count), a.w.scales.slice(0, begin, count));
  });
}

}  // namespace

void run(Context& ctx, const Nvfp4Quantize& a) {
  quantize(ctx, a.codes, a.x, a.scale,
           RowMajor{.scales = bytes_of(a.scales),
                    .row_count = a.scales.dim(0),
                    .block_count = a.scales.dim(1),
                    .pitch = a.scales.stride(0)});
}

void run(Context& ctx, const Nvfp4Linear& a) {
  if (a.y.size() == 0) return;
  const bool codes = takes_codes(ctx, a);
  if (codes) product_of_codes(ctx, a);
  // A rehearsal, which knows no addresses, takes what either does.
  if (!codes || ctx.device() == Device::kNull) product_of_values(ctx, a);
}

}  // namespace nestling::cuda
