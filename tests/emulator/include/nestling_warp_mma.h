// nestling_warp_mma.h - of the emulator: what the instructions of kernels/cuda/warp_mma.cuh do, as the PTX
// ISA lays out their registers.
#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "cuda_bf16.h"

namespace nestling::cuda {

template <bool kTranspose>
void load_matrices(uint32_t (&m)[4], const __nv_bfloat16* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    emulator::fail("ldmatrix: an address that is not a multiple of 16");
  const auto rows = emulator::exchange("ldmatrix", 0xffffffffu, row);
  const int g = emulator::lane() / 4, q = emulator::lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    uint32_t word = 0;
    for (int j = 0; j < 2; ++j) {
      const int at = 8 * i + (kTranspose ? q + j : g);
      word |= uint32_t{rows[static_cast<size_t>(at)][kTranspose ? g : q + j].bits} << (16 * j);
    }
    m[i] = word;
  }
  emulator::exchange("ldmatrix", 0xffffffffu, 0);  // nobody writes before all have read
}

inline void add_product(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto as =
      emulator::exchange("mma", 0xffffffffu, std::array<uint32_t, 4>{a[0], a[1], a[2], a[3]});
  const auto bs = emulator::exchange("mma", 0xffffffffu, std::array<uint32_t, 2>{b0, b1});
  const auto half = [](uint32_t word, int i) {
    return std::bit_cast<float>(i == 0 ? word << 16 : word & 0xffff0000u);
  };
  const int g = emulator::lane() / 4, q = emulator::lane() % 4 * 2;
  for (int e = 0; e < 4; ++e) {
    const int col = q + e % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const auto of_a = static_cast<size_t>(4 * g + k % 8 / 2);
      const auto of_b = static_cast<size_t>(4 * col + k % 8 / 2);
      sum += half(as[of_a][static_cast<size_t>(e / 2 + k / 8 * 2)], k % 2) *
             half(bs[of_b][static_cast<size_t>(k / 8)], k % 2);
    }
    c[e] += sum;
  }
}

}  // namespace nestling::cuda
