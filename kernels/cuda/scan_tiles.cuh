// scan_tiles.cuh - 64 x 64 tiles: how a block stages them in shared memory, multiplies them and walks
// their elements. What every pass of the chunked scan on CUDA is made of.
//
// Operands      E = float: products by f32 FMAs. E = bf16: on tensor cores (wmma), sums in f32; what is
//               not bf16 already (states, decayed operands) is rounded once, on staging.
// Padding       rows and columns outside an operand are zero, so products need no bounds.
// Shared        the sum of a product takes the place of its operands: a barrier stands between.
#pragma once
#include <cstdint>
#include <mma.h>
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda::scan {

inline constexpr int kTile = 64;      // tokens, channels or states on a side
inline constexpr int kThreads = 128;  // of the blocks that work on tiles
// Elements from row to row: 16 bytes more than the tile, which moves each row to other banks.
template <class E>
inline constexpr int kPitch = kTile + 16 / static_cast<int>(sizeof(E));
inline constexpr int kSumPitch = kPitch<float>;

template <class E>
struct __align__(128) Shared {
  E a[kTile * kPitch<E>];
  E b[kTile * kPitch<E>];
  __device__ float* sum() {
    return reinterpret_cast<float*>(this);
  }
};
static_assert(sizeof(Shared<__nv_bfloat16>) >= sizeof(float) * kTile * kSumPitch);

template <class E, int kCount>
struct alignas(kCount * sizeof(E)) AlignedVector {
  E v[kCount];
};
template <class F>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(F));

// tile[r, c] = scale_r from[r, c] for rows x cols, zero around them. `vector`: rows of `from` may be
// read by 16 bytes. `scale` lies in shared memory; null: one.
template <class E, class F>
__device__ void stage(E* tile, const F* from, int64_t pitch, int64_t rows, int64_t cols,
                      bool vector, const float* scale = nullptr) {
  if (vector && cols >= kTile) {
    constexpr int kN = kVector<F>;
    constexpr int kRow = kTile / kN;
#pragma unroll 4
    for (int i = threadIdx.x; i < kTile * kRow; i += kThreads) {
      const int r = i / kRow;
      const int c = i % kRow * kN;
      AlignedVector<E, kN> out;
      if (r < rows) {
        const auto in = *reinterpret_cast<const AlignedVector<F, kN>*>(from + r * pitch + c);
        const float s = scale != nullptr ? scale[r] : 1.0f;
#pragma unroll
        for (int j = 0; j < kN; ++j) store(&out.v[j], s * load(&in.v[j]));
      } else {
#pragma unroll
        for (int j = 0; j < kN; ++j) store(&out.v[j], 0.0f);
      }
      *reinterpret_cast<AlignedVector<E, kN>*>(tile + r * kPitch<E> + c) = out;
    }
    return;
  }
  for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
    const int r = i / kTile;
    const int c = i % kTile;
    const float s = scale != nullptr ? scale[r] : 1.0f;
    store(tile + r * kPitch<E> + c, r < rows && c < cols ? s * load(from + r * pitch + c) : 0.0f);
  }
}

// The block's sum of products A B of staged tiles. A is stored [k, m] where kTransposeA, B [n, k]
// where kTransposeB.
template <class E>
class TileSum;

template <>
class TileSum<__nv_bfloat16> {
 public:
  __device__ void clear() {
    for (auto& row : acc_)
      for (auto& f : row) nvcuda::wmma::fill_fragment(f, 0.0f);
  }
  template <bool kTransposeA, bool kTransposeB>
  __device__ void add(const __nv_bfloat16* a, const __nv_bfloat16* b) {
    using namespace nvcuda;  // NOLINT(google-build-using-namespace)
    using LayoutA = std::conditional_t<kTransposeA, wmma::col_major, wmma::row_major>;
    using LayoutB = std::conditional_t<kTransposeB, wmma::col_major, wmma::row_major>;
    constexpr int kP = kPitch<__nv_bfloat16>;
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, LayoutA> fa[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, LayoutB> fb[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int m = row() + 16 * i;
        const int n = col() + 16 * i;
        load_fragment(fa[i], a + (kTransposeA ? k * kP + m : m * kP + k), kP);
        load_fragment(fb[i], b + (kTransposeB ? n * kP + k : k * kP + n), kP);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) wmma::mma_sync(acc_[i][j], fa[i], fb[j], acc_[i][j]);
    }
  }
  __device__ void write(float* to, int pitch) const {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        nvcuda::wmma::store_matrix_sync(to + (row() + 16 * i) * pitch + col() + 16 * j, acc_[i][j],
                                        pitch, nvcuda::wmma::mem_row_major);
  }

 private:
  // Of the warp's 32 x 32 part.
  static __device__ int row() {
    return static_cast<int>(threadIdx.x) / 64 * 32;
  }
  static __device__ int col() {
    return static_cast<int>(threadIdx.x) / 32 % 2 * 32;
  }
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> acc_[2][2];
};

// A thread has rows 4 (t / 8) + i and columns t % 8 + 8 j.
template <>
class TileSum<float> {
 public:
  __device__ void clear() {
    for (auto& row : acc_)
      for (float& x : row) x = 0.0f;
  }
  template <bool kTransposeA, bool kTransposeB>
  __device__ void add(const float* a, const float* b) {
    constexpr int kP = kPitch<float>;
    const int m = static_cast<int>(threadIdx.x) / 8 * 4;
    const int n = static_cast<int>(threadIdx.x) % 8;
#pragma unroll 4
    for (int k = 0; k < kTile; ++k) {
      float left[4];
      float right[8];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = a[kTransposeA ? k * kP + m + i : (m + i) * kP + k];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        right[j] = b[kTransposeB ? (n + 8 * j) * kP + k : k * kP + n + 8 * j];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) acc_[i][j] += left[i] * right[j];
    }
  }
  __device__ void write(float* to, int pitch) const {
    const int m = static_cast<int>(threadIdx.x) / 8 * 4;
    const int n = static_cast<int>(threadIdx.x) % 8;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 8; ++j) to[(m + i) * pitch + n + 8 * j] = acc_[i][j];
  }

 private:
  float acc_[4][8];
};

// Blocks in one dimension, the fastest first: those that read the same rows run side by side.
struct Place {
  int64_t fast, middle, slow;
};
inline __device__ Place block_place(int64_t fast, int64_t middle) {
  const int64_t rest = blockIdx.x / fast;
  return {blockIdx.x % fast, rest % middle, rest / middle};
}

// Elementwise work on a tile: a warp has 16 rows, a lane two columns of them.
inline constexpr int kRows = 16;
inline constexpr int kCols = 2;
inline __device__ int own_row(int r) {
  return static_cast<int>(threadIdx.x) / kWarp * kRows + r;
}
inline __device__ int own_col(int c) {
  return static_cast<int>(threadIdx.x) % kWarp + c * kWarp;
}
// fn(row, column, r, c) for the thread's elements.
template <class Fn>
__device__ void for_own(Fn fn) {
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kCols; ++c) fn(own_row(r), own_col(c), r, c);
}

}  // namespace nestling::cuda::scan
