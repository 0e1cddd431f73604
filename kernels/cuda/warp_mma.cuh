// warp_mma.cuh - products of one warp on tensor cores, operands and sums in registers whose places are
// known. (PTX ISA, mma.m16n8k16 and ldmatrix; sm_80 and later.)
//
// Lane          g = lane / 4, q = lane % 4.
// Sums          c [16, 8]: c[0], c[1] are row g, columns 2q and 2q + 1; c[2], c[3] the same of row g + 8.
// Operand a     [16, sum of 16] in 4 words of two neighbours of the sum: rows g, g + 8 at 2q, then at 2q + 8.
// Operand b     [sum of 16, 8] in 2 words: column g at 2q, then at 2q + 8.
//               Sums of [16, 16], packed, are so an operand a, and two operands b of their transpose.
// Loads         16 x 16 bf16 of a tile in shared memory, whose rows begin at multiples of 16 bytes:
//                 a from [M, sum] load_rows     two b from [N, sum] load_cols
//                 a from [sum, M] load_cols_t   two b from [sum, N] load_rows_t
//               Two operands b are words 0, 1 and words 2, 3.
#pragma once
#include <cstdint>

#include <cuda_bf16.h>

#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/warpgroup.cuh"

#ifndef __CUDACC__
#include <nestling_warp_mma.h>  // what these instructions do, in C++: of the emulator
#else

namespace nestling::cuda {

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
template <bool kTranspose>
__device__ void load_matrices(uint32_t (&m)[4], const __nv_bfloat16* row) {
  if constexpr (kTranspose)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b
inline __device__ void add_product(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace nestling::cuda

#endif

namespace nestling::cuda {

inline __device__ int own_lane() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

namespace detail {
// Matrices one below the other, then to the right; and to the right, then below.
inline __device__ const __nv_bfloat16* row_address(const __nv_bfloat16* tile, int pitch) {
  return tile + own_lane() % 16 * pitch + own_lane() / 16 * 8;
}
inline __device__ const __nv_bfloat16* col_address(const __nv_bfloat16* tile, int pitch) {
  return tile + (own_lane() % 8 + own_lane() / 16 * 8) * pitch + own_lane() / 8 % 2 * 8;
}
}  // namespace detail

inline __device__ void load_rows(uint32_t (&m)[4], const __nv_bfloat16* tile, int pitch) {
  load_matrices<false>(m, detail::row_address(tile, pitch));
}
inline __device__ void load_rows_t(uint32_t (&m)[4], const __nv_bfloat16* tile, int pitch) {
  load_matrices<true>(m, detail::row_address(tile, pitch));
}
inline __device__ void load_cols(uint32_t (&m)[4], const __nv_bfloat16* tile, int pitch) {
  load_matrices<false>(m, detail::col_address(tile, pitch));
}
inline __device__ void load_cols_t(uint32_t (&m)[4], const __nv_bfloat16* tile, int pitch) {
  load_matrices<true>(m, detail::col_address(tile, pitch));
}

// Two neighbours in a word, the first in its lower half, as bits_of() makes it.
inline __device__ float2 unpack_pair(uint32_t word) {  // bf16 is the upper half of f32
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

}  // namespace nestling::cuda
