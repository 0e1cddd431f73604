// warp_tile.cuh - products of tiles in shared memory, 16 rows a warp, the sums in registers.
//
// Operands      float: FMA arithmetic, exact but for the roundings of f32. bf16: tensor cores with
//               sums in f32. Code that uses tiles is the same for both.
// Shapes        add_nt: [16, kDepth] times [kCols, kDepth]^T;  add_nn: [16, kDepth] times
//               [kDepth, kCols]. Leading dimensions are arguments; float wants multiples of 4, bf16
//               of 8, and tensor cores a pointer on 32 bytes: tiles of 16 rows and columns have it.
// Warps         every call is made by all 32 lanes; what other lanes wrote needs a barrier before.
#pragma once
#include <mma.h>

#include <cuda_bf16.h>

#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda {

inline constexpr int kTileRows = 16;

// The rows of the sums a lane holds, where they are not known beforehand.
struct FmaRows {
  __device__ FmaRows(float*, int) {}
};

// Where the columns of a lane lie: apart by 8 (rows of B are read without bank conflicts) or in runs
// of 4 (rows of B are read as float4).
enum class Columns { kApart, kRuns };

// Lane (g, l) = (lane / 8, lane % 8) has rows 4g .. 4g + 3 and every eighth column, or run of 4.
template <int kCols, Columns kColumns>
class FmaTile {
 public:
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) x_[i][j] = 0.0f;
  }

  template <int kDepth>
  __device__ void add_nt(const float* a, int lda, const float* b, int ldb) {
#pragma unroll 2
    for (int k = 0; k < kDepth; k += 4) {
      float4 av[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) av[i] = *reinterpret_cast<const float4*>(a + row(i) * lda + k);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const float4 bv = *reinterpret_cast<const float4*>(b + col(j) * ldb + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x_[i][j] = fmaf(av[i].x, bv.x, x_[i][j]);
          x_[i][j] = fmaf(av[i].y, bv.y, x_[i][j]);
          x_[i][j] = fmaf(av[i].z, bv.z, x_[i][j]);
          x_[i][j] = fmaf(av[i].w, bv.w, x_[i][j]);
        }
      }
    }
  }

  template <int kDepth>
  __device__ void add_nn(const float* a, int lda, const float* b, int ldb) {
    for (int k = 0; k < kDepth; k += 4) {
      float4 av[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) av[i] = *reinterpret_cast<const float4*>(a + row(i) * lda + k);
      const float weights[4][4] = {{av[0].x, av[1].x, av[2].x, av[3].x},
                                   {av[0].y, av[1].y, av[2].y, av[3].y},
                                   {av[0].z, av[1].z, av[2].z, av[3].z},
                                   {av[0].w, av[1].w, av[2].w, av[3].w}};
#pragma unroll
      for (int u = 0; u < 4; ++u) add_outer(weights[u], b + (k + u) * ldb);
    }
  }

  __device__ void scale(float factor) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) x_[i][j] *= factor;
  }
  // factors [16], of each row.
  __device__ void scale_rows(const FmaRows&, const float* factors) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float factor = factors[row(i)];
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) x_[i][j] *= factor;
    }
  }
  __device__ void store(float* to, int ld) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) to[row(i) * ld + col(j)] = x_[i][j];
  }

 private:
  static_assert(kCols % 8 == 0);
  static constexpr int kPerLane = kCols / 8;
  static constexpr bool kInRuns = kColumns == Columns::kRuns && kCols % 32 == 0;

  static __device__ int row(int i) {
    return threadIdx.x % kWarp / 8 * 4 + i;
  }
  static __device__ int col(int j) {
    const int lane = threadIdx.x % 8;
    return kInRuns ? j / 4 * 32 + lane * 4 + j % 4 : j * 8 + lane;
  }
  __device__ void add_outer(const float (&a)[4], const float* b) {
    if constexpr (kInRuns) {
#pragma unroll
      for (int j = 0; j < kPerLane; j += 4) {
        const float4 bv = *reinterpret_cast<const float4*>(b + col(j));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x_[i][j] = fmaf(a[i], bv.x, x_[i][j]);
          x_[i][j + 1] = fmaf(a[i], bv.y, x_[i][j + 1]);
          x_[i][j + 2] = fmaf(a[i], bv.z, x_[i][j + 2]);
          x_[i][j + 3] = fmaf(a[i], bv.w, x_[i][j + 3]);
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const float bv = b[col(j)];
#pragma unroll
        for (int i = 0; i < 4; ++i) x_[i][j] = fmaf(a[i], bv, x_[i][j]);
      }
    }
  }

  float x_[4][kPerLane];
};

using MmaSums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;

// Which row an element of a fragment belongs to is not told; but all fragments of sums are laid out
// alike, so one loaded with the numbers of its rows knows it for all. `scratch` [16, ld] is shared
// memory of the warp's own.
struct MmaRows {
  __device__ MmaRows(float* scratch, int ld) {
    for (int e = threadIdx.x % kWarp; e < kTileRows * 16; e += kWarp)
      scratch[e / 16 * ld + e % 16] = static_cast<float>(e / 16);
    __syncwarp();
    MmaSums numbers;
    nvcuda::wmma::load_matrix_sync(numbers, scratch, static_cast<unsigned>(ld),
                                   nvcuda::wmma::mem_row_major);
#pragma unroll
    for (int i = 0; i < MmaSums::num_elements; ++i) row[i] = static_cast<int>(numbers.x[i]);
  }
  int row[MmaSums::num_elements];
};

template <int kCols>
class MmaTile {
 public:
  __device__ void clear() {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) nvcuda::wmma::fill_fragment(sums_[j], 0.0f);
  }
  template <int kDepth>
  __device__ void add_nt(const __nv_bfloat16* a, int lda, const __nv_bfloat16* b, int ldb) {
    add<kDepth, nvcuda::wmma::col_major>(a, lda, b, ldb, 1, ldb);
  }
  template <int kDepth>
  __device__ void add_nn(const __nv_bfloat16* a, int lda, const __nv_bfloat16* b, int ldb) {
    add<kDepth, nvcuda::wmma::row_major>(a, lda, b, ldb, ldb, 1);
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int i = 0; i < MmaSums::num_elements; ++i) sums_[j].x[i] *= factor;
  }
  __device__ void scale_rows(const MmaRows& rows, const float* factors) {
    float mine[MmaSums::num_elements];
#pragma unroll
    for (int i = 0; i < MmaSums::num_elements; ++i) mine[i] = factors[rows.row[i]];
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int i = 0; i < MmaSums::num_elements; ++i) sums_[j].x[i] *= mine[i];
  }
  __device__ void store(float* to, int ld) const {
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
      nvcuda::wmma::store_matrix_sync(to + j * 16, sums_[j], static_cast<unsigned>(ld),
                                      nvcuda::wmma::mem_row_major);
  }

 private:
  static_assert(kCols % 16 == 0);
  static constexpr int kTiles = kCols / 16;

  // `deeper` and `right`: elements from one step of depth, and from one column, to the next in b.
  template <int kDepth, class Layout>
  __device__ void add(const __nv_bfloat16* a, int lda, const __nv_bfloat16* b, int ldb, int deeper,
                      int right) {
    namespace wmma = nvcuda::wmma;
    static_assert(kDepth % 16 == 0);
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> af;
      load_fragment(af, a + k, lda);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, Layout> bf;
        load_fragment(bf, b + k * deeper + j * 16 * right, ldb);
        wmma::mma_sync(sums_[j], af, bf, sums_[j]);
      }
    }
  }

  MmaSums sums_[kTiles];
};

// The tiles for operands of type T: scores come from add_nt, outputs from add_nn.
template <class T>
struct WarpTiles;
template <>
struct WarpTiles<float> {
  template <int kCols>
  using Scores = FmaTile<kCols, Columns::kApart>;
  template <int kCols>
  using Outputs = FmaTile<kCols, Columns::kRuns>;
  using Rows = FmaRows;
  static constexpr int kPadding = 4;  // columns behind a tile's: no bank conflicts between rows
};
template <>
struct WarpTiles<__nv_bfloat16> {
  template <int kCols>
  using Scores = MmaTile<kCols>;
  template <int kCols>
  using Outputs = MmaTile<kCols>;
  using Rows = MmaRows;
  static constexpr int kPadding = 8;
};

}  // namespace nestling::cuda
