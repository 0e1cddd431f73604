// attention_warpgroups.cuh - what attention on warpgroups shares: tiles of rows in shared memory, and their products.
//
// Block         two warpgroups; each has 64 of the 128 rows that stay, and its sums of them. Rows of the operands
//               that are walked are read by both.
// Ping-pong     (FlashAttention-3, Shah et al. 2024) one barrier a tile. Between two, warpgroup 0 computes the scores,
//               the online softmax and the weighted sum of tile n; warpgroup 1 first does the weighted sum of tile
//               n - 1, then scores and softmax of tile n. While one has its softmax, the tensor cores work for the
//               other.
// Tiles         [kRows, kDim]: panels of 64 channels, each kRows rows of 128 bytes, swizzled (warpgroup.cuh).
// Traffic       of shared memory bounds a product of 64 columns, at 128 bytes a clock, when its left operand is read
//               there each time: where there are registers enough, rows that stay are in registers.
// Widths        a head of h <= kDim channels is padded with zeros in shared memory.
#pragma once
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/warp_mma.cuh"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/warpgroup_sums.cuh"

namespace nestling::cuda {

namespace warpgroups {

inline constexpr int kThreads = 256;
inline constexpr int kRows = 128;      // that stay, of a block
inline constexpr int kGroupRows = 64;  // of a warpgroup
inline constexpr int kRowBytes = 128;
inline constexpr int kPattern = 1024;  // tiles begin at multiples of it

template <int kDim, int kTileRows>
inline constexpr int kTileBytes = kDim / 64 * kTileRows* kRowBytes;

inline __device__ int group() {  // in a register that all lanes share
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
}

inline __device__ unsigned char* patterned(unsigned char* shared) {
  return shared + (kPattern - shared_address(shared) % kPattern) % kPattern;
}

// Starts the copies of a tile: rows from `rows` on (none exist where it is not positive) and channels behind
// `width` become zero. What does not exist is not read.
template <int kDim, int kTileRows>
__device__ void copy_swizzled(unsigned char* to, const __nv_bfloat16* from, int64_t pitch, int rows,
                              int width) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes
  constexpr int kAtOnce = kThreads / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int first = static_cast<int>(threadIdx.x) / kPieces;
  const int exist = 8 * piece < width ? rows - first : 0;
  to += piece / 8 * kTileRows * kRowBytes + first * kRowBytes + ((piece % 8) ^ (first % 8)) * 16;
  from += first * pitch + 8 * piece;
#pragma unroll
  for (int r = 0; r < kTileRows; r += kAtOnce, from += kAtOnce * pitch)
    copy_async(to + r * kRowBytes, from, r < exist ? 16 : 0);
}

// sums [64, columns] = a b^T over the channels: 64 rows of one tile, from `row` on, and all of another.
template <int kDim, int kRowsA, int kSums>
__device__ void multiply_rows(float (&sums)[kSums], const unsigned char* a, int row,
                              const unsigned char* b) {
  const uint64_t left = shared_operand(a + row * kRowBytes, 0);
  const uint64_t right = shared_operand(b, 0);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const int piece = k % 4 * 32;
    multiply<false, false>(sums, advance(left, k / 4 * kRowsA * kRowBytes + piece),
                           advance(right, k / 4 * 2 * kSums * kRowBytes + piece), k > 0);
  }
}

// The 64 rows of a tile from `row` on, as left operands over its channels.
template <int kDim, int kTileRows>
__device__ void load_fragments(uint32_t (&fragments)[kDim / 16][4], const unsigned char* tile,
                               int row) {
  const int own = row + static_cast<int>(threadIdx.x) % 128 / kWarp * 16 + own_lane() % 16;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    const int piece = (k % 4 * 2 + own_lane() / 16) ^ (own % 8);
    load_matrices<false>(fragments[k],
                         reinterpret_cast<const __nv_bfloat16*>(
                             tile + (k / 4 * kTileRows + own) * kRowBytes + 16 * piece));
  }
}

// sums [64, columns] = a b^T over the channels: a in registers, and all rows of a tile.
template <int kSums, int kSteps>
__device__ void multiply_rows(float (&sums)[kSums], const uint32_t (&a)[kSteps][4],
                              const unsigned char* b) {
  const uint64_t right = shared_operand(b, 0);
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
    multiply<false>(sums, a[k], advance(right, k / 4 * 2 * kSums * kRowBytes + k % 4 * 32), k > 0);
}

// Sums rounded to bf16, as left operands of products over their columns.
template <int kSums>
__device__ void fragments_of(const float (&sums)[kSums], uint32_t (&fragments)[kSums / 8][4]) {
#pragma unroll
  for (int k = 0; k < kSums / 8; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      fragments[k][i] = bits_of(sums[8 * k + 2 * i], sums[8 * k + 2 * i + 1]);
}

// sums [64, kDim] += weights b: b a tile with a row for each column of the weights.
template <int kSums, int kSteps>
__device__ void add_weighted(float (&sums)[kSums], const uint32_t (&weights)[kSteps][4],
                             const unsigned char* b) {
  const uint64_t right = shared_operand(b, kSteps * 16 * kRowBytes);
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
    multiply<true>(sums, weights[k], advance(right, k * 16 * kRowBytes));
}

// body(Constant<kDim>) for the least kDim that holds heads of this width; at most 128.
template <class Body>
void with_tile_width(int64_t width, Body&& body) {
  if (width <= 64) return body(Constant<64>{});
  body(Constant<128>{});
}

}  // namespace warpgroups

}  // namespace nestling::cuda
