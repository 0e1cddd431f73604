// tile_product.cuh - one tile of a product c [M, N] = a b, summed over S, by one block: stage, multiply,
// hand out.
//
//   Stage         a tile of one operand, on its way from global through registers to shared memory: the
//                 next tile is under way while this one is multiplied
//   TensorCores   sums of bf16 products, f32, in 16 x 16 fragments
//   FloatLanes    sums of f32 products by FMA, 8 x 8 a thread
//   sum_products  the loop over S
//   each()        gives every sum of the tile to its place, a warp along rows of c
//
// Operands      a [M, S] or [S, M], b [N, S] or [S, N], rows at any pitch: Major says which extent runs
//               along memory. Tiles keep that order in shared memory.
// Edges         what lies outside an operand counts as zero, so S may be 0 and no extent need fill tiles.
//               kVector elements are read at once: then rows start at multiples of 16 bytes, and the
//               extent along memory is a multiple of kVector.
// Determinism   each sum has one owner and the order of S, whatever the shape of the tile.
#pragma once
#include <cstdint>
#include <mma.h>
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda {

// Which extent of an operand is contiguous, in CUTLASS's terms, whose K is S: the summed one, or M of a and N of b.
enum class Major : uint8_t { kKMajor, kMNMajor };

template <int m, int n, int sum, int warps_m, int warps_n>
struct ProductTile {
  static constexpr int kM = m, kN = n, kSum = sum;
  static constexpr int kWarpsM = warps_m, kWarpsN = warps_n;
  static constexpr int kThreads = kWarp * warps_m * warps_n;
};

template <class T>
struct TileOperand {
  const T* data;  // of the tile's first row or column, S = 0
  int64_t pitch;
  int64_t side;  // how many there are from there on
};

// What one load brings.
template <class T, int kVector>
struct WordOf {
  using Type = T;
};
template <>
struct WordOf<float, 4> {
  using Type = float4;
};
template <>
struct WordOf<__nv_bfloat16, 8> {
  using Type = uint4;
};

template <class T, int kVector_, int kSide, int kSum, Major kMajor_, int kThreads>
class Stage {
 public:
  static constexpr Major kMajor = kMajor_;
  static constexpr int kVector = kVector_;
  static constexpr int kRows = kMajor == Major::kKMajor ? kSide : kSum;
  static constexpr int kCols = kMajor == Major::kKMajor ? kSum : kSide;
  // Moves each row to other banks: bf16 by 16 bytes, as fragments read it; f32 by one element.
  static constexpr int kPitch = kCols + (sizeof(T) == 2 ? 8 : 1);
  static constexpr int kElements = (kRows * kPitch + 15) / 16 * 16;
  static __device__ int at(int side, int sum) {
    return kMajor == Major::kKMajor ? side * kPitch + sum : sum * kPitch + side;
  }

  // [sum, sum + kSum) of an operand whose S is `extent`.
  __device__ void fetch(const TileOperand<T>& from, int64_t sum, int64_t extent) {
    constexpr bool kKMajor = kMajor == Major::kKMajor;
    const T* corner = from.data + (kKMajor ? sum : sum * from.pitch);
    const auto rows = static_cast<int>(min(int64_t{kRows}, kKMajor ? from.side : extent - sum));
    const auto cols = static_cast<int>(min(int64_t{kCols}, kKMajor ? extent - sum : from.side));
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int r = row(i);
      const int c = col(i);
      const bool inside = r < rows && c < cols;
      words_[i] = inside ? *reinterpret_cast<const Word*>(corner + r * from.pitch + c) : Word{};
    }
  }
  __device__ void put(T* shared) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      T* to = shared + row(i) * kPitch + col(i);
      if constexpr (std::is_same_v<Word, float4>) {
        to[0] = words_[i].x;
        to[1] = words_[i].y;
        to[2] = words_[i].z;
        to[3] = words_[i].w;
      } else {
        *reinterpret_cast<Word*>(to) = words_[i];
      }
    }
  }

 private:
  using Word = typename WordOf<T, kVector>::Type;
  static constexpr int kRowWords = kCols / kVector;
  static constexpr int kWords = kRows * kRowWords / kThreads;
  static_assert(kWords * kThreads == kRows * kRowWords, "whole words for every thread");
  static __device__ int row(int i) {
    return (i * kThreads + threadIdx.x) / kRowWords;
  }
  static __device__ int col(int i) {
    return (i * kThreads + threadIdx.x) % kRowWords * kVector;
  }
  Word words_[kWords];
};

// A warp has [kM / kWarpsM, kN / kWarpsN] of the tile.
template <class Shape, class A, class B>
class TensorCores {
 public:
  // each() needs this much shared memory.
  static constexpr int kPatchPitch = Shape::kN / Shape::kWarpsN + 4;
  static constexpr int kPatchFloats = 16 * kPatchPitch * Shape::kWarpsM * Shape::kWarpsN;

  __device__ TensorCores() {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kCols; ++j) nvcuda::wmma::fill_fragment(sums_[i][j], 0.0f);
  }

  __device__ void add(const __nv_bfloat16* a, const __nv_bfloat16* b) {
#pragma unroll
    for (int s = 0; s < Shape::kSum; s += 16) {
      FragmentB right[kCols];
#pragma unroll
      for (int j = 0; j < kCols; ++j)
        load_fragment(right[j], b + B::at(first_col() + 16 * j, s), B::kPitch);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        FragmentA left;
        load_fragment(left, a + A::at(first_row() + 16 * i, s), A::kPitch);
#pragma unroll
        for (int j = 0; j < kCols; ++j)
          nvcuda::wmma::mma_sync(sums_[i][j], left, right[j], sums_[i][j]);
      }
    }
  }

  // put(row, column, sum) for the whole tile, through the warp's patch of shared memory.
  template <class Put>
  __device__ void each(float* patches, const Put& put) {
    constexpr int kWidth = 16 * kCols;
    float* patch = patches + threadIdx.x / kWarp * 16 * kPatchPitch;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kCols; ++j)
        nvcuda::wmma::store_matrix_sync(patch + 16 * j, sums_[i][j], kPatchPitch,
                                        nvcuda::wmma::mem_row_major);
      __syncwarp();
#pragma unroll 4
      for (int e = threadIdx.x % kWarp; e < 16 * kWidth; e += kWarp) {
        const int r = e / kWidth;
        const int c = e % kWidth;
        put(first_row() + 16 * i + r, first_col() + c, patch[r * kPatchPitch + c]);
      }
      __syncwarp();
    }
  }

 private:
  using FragmentA =
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16,
                             std::conditional_t<A::kMajor == Major::kKMajor,
                                                nvcuda::wmma::row_major, nvcuda::wmma::col_major>>;
  using FragmentB =
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16,
                             std::conditional_t<B::kMajor == Major::kKMajor,
                                                nvcuda::wmma::col_major, nvcuda::wmma::row_major>>;
  static constexpr int kRows = Shape::kM / Shape::kWarpsM / 16;
  static constexpr int kCols = Shape::kN / Shape::kWarpsN / 16;
  static __device__ int first_row() {
    return static_cast<int>(threadIdx.x) / kWarp / Shape::kWarpsN * (16 * kRows);
  }
  static __device__ int first_col() {
    return static_cast<int>(threadIdx.x) / kWarp % Shape::kWarpsN * (16 * kCols);
  }
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums_[kRows][kCols];
};

// 16 x 16 threads; thread (y, x) has rows y, y + 16, ... and columns x, x + 16, ...
template <class Shape, class A, class B>
class FloatLanes {
 public:
  static constexpr int kPatchFloats = 0;

  __device__ void add(const float* a, const float* b) {
#pragma unroll 4
    for (int s = 0; s < Shape::kSum; ++s) {
      float left[kRows], right[kCols];
#pragma unroll
      for (int i = 0; i < kRows; ++i) left[i] = a[A::at(y() + kSide * i, s)];
#pragma unroll
      for (int j = 0; j < kCols; ++j) right[j] = b[B::at(x() + kSide * j, s)];
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kCols; ++j) sums_[i][j] += left[i] * right[j];
    }
  }

  template <class Put>
  __device__ void each(float*, const Put& put) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kCols; ++j) put(y() + kSide * i, x() + kSide * j, sums_[i][j]);
  }

 private:
  static constexpr int kSide = 16;
  static_assert(Shape::kThreads == kSide * kSide);
  static constexpr int kRows = Shape::kM / kSide;
  static constexpr int kCols = Shape::kN / kSide;
  static __device__ int y() {
    return static_cast<int>(threadIdx.x) / kSide;
  }
  static __device__ int x() {
    return static_cast<int>(threadIdx.x) % kSide;
  }
  float sums_[kRows][kCols] = {};
};

// How a kernel multiplies: its types, and the shared memory that it declares.
template <class T_, int kVector, class Shape_, Major kA, Major kB>
struct TilePlan {
  using T = T_;
  using Shape = Shape_;
  using A = Stage<T, kVector, Shape::kM, Shape::kSum, kA, Shape::kThreads>;
  using B = Stage<T, kVector, Shape::kN, Shape::kSum, kB, Shape::kThreads>;
  using Sums = std::conditional_t<std::is_same_v<T, float>, FloatLanes<Shape, A, B>,
                                  TensorCores<Shape, A, B>>;
  static constexpr int kStep = A::kElements + B::kElements;  // of a step along S; two are held
  static constexpr int kSharedBytes = 2 * kStep * static_cast<int>(sizeof(T));
  static_assert(kSharedBytes <= 48 << 10);
  static_assert(Sums::kPatchFloats * static_cast<int>(sizeof(float)) <= kSharedBytes);
};

// sums += a b over S = extent. On return all threads are done with the shared memory.
template <class Plan>
__device__ void sum_products(typename Plan::Sums& sums, const TileOperand<typename Plan::T>& a,
                             const TileOperand<typename Plan::T>& b, int64_t extent,
                             typename Plan::T* shared) {
  typename Plan::A next_a;
  typename Plan::B next_b;
  next_a.fetch(a, 0, extent);
  next_b.fetch(b, 0, extent);
  int half = 0;  // written in this step; the other one may still be read by threads behind
  for (int64_t s = 0; s < extent; s += Plan::Shape::kSum) {
    auto* tile_a = shared + half * Plan::kStep;
    auto* tile_b = tile_a + Plan::A::kElements;
    next_a.put(tile_a);
    next_b.put(tile_b);
    __syncthreads();
    if (s + Plan::Shape::kSum < extent) {
      next_a.fetch(a, s + Plan::Shape::kSum, extent);
      next_b.fetch(b, s + Plan::Shape::kSum, extent);
    }
    sums.add(tile_a, tile_b);
    half ^= 1;
  }
  __syncthreads();
}

}  // namespace nestling::cuda
