// fragment.cuh - operands of wmma products [16, 16] of bf16 from shared memory.
//
// wmma::load_matrix_sync takes any address, and of bf16 nvcc reads word by word: told that the memory is shared, it
// takes ldmatrix. The fragments are the same.
#pragma once
#include <cstdint>
#include <cstring>
#include <mma.h>
#include <type_traits>

#include <cuda_bf16.h>

namespace nestling::cuda {

#ifdef __CUDACC__

#define NESTLING_LOAD_FRAGMENT(use, layout)                     \
  asm volatile("wmma.load." use ".sync.aligned." layout         \
               ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, "      \
               "[%4], %5;\n"                                    \
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) \
               : "r"(at), "r"(ld)                               \
               : "memory")

template <class Use, class Layout>
__device__ void load_fragment(nvcuda::wmma::fragment<Use, 16, 16, 16, __nv_bfloat16, Layout>& to,
                              const __nv_bfloat16* shared, int ld) {
  constexpr bool kLeft = std::is_same_v<Use, nvcuda::wmma::matrix_a>;
  constexpr bool kRows = std::is_same_v<Layout, nvcuda::wmma::row_major>;
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint32_t w[4];
  if constexpr (kLeft && kRows)
    NESTLING_LOAD_FRAGMENT("a", "row");
  else if constexpr (kLeft)
    NESTLING_LOAD_FRAGMENT("a", "col");
  else if constexpr (kRows)
    NESTLING_LOAD_FRAGMENT("b", "row");
  else
    NESTLING_LOAD_FRAGMENT("b", "col");
  static_assert(sizeof to.x == sizeof w);
  memcpy(to.x, w, sizeof w);
}

#undef NESTLING_LOAD_FRAGMENT

#else  // on the emulator

template <class Fragment>
void load_fragment(Fragment& to, const __nv_bfloat16* shared, int ld) {
  nvcuda::wmma::load_matrix_sync(to, shared, static_cast<unsigned>(ld));
}

#endif

}  // namespace nestling::cuda
