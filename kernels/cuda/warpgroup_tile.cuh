// warpgroup_tile.cuh - a tile [128, 128] of a product of bf16 operands, by a block of two warpgroups, each with 64
// of its rows. tile_product.cuh does the same on any card, and for any alignment.
//
// Steps         of 64 of the sum. Three of them lie in shared memory: one is multiplied while the next two are
//               copied, straight from global memory.
// Operands      a [M, S] or [S, M], b [N, S] or [S, N]; rows start at multiples of 16 bytes and are whole pieces of
//               16 bytes. What lies outside counts as zero, and is not read; a warpgroup of which all 64 rows lie
//               there multiplies nothing.
// Determinism   each sum has one owner and the order of S.
#pragma once
#include "kernels/cuda/tile_product.cuh"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/warpgroup_sums.cuh"

namespace nestling::cuda {

struct WarpgroupTile {
  static constexpr int kM = 128, kN = 128, kSum = 64;
  static constexpr int kThreads = 256;
  static constexpr int kSteps = 3;  // in shared memory
  static constexpr int kOperandBytes = 128 * kSum * 2;
  static constexpr int kStepBytes = 2 * kOperandBytes;
  static constexpr int kPattern = 1024;  // operands begin at multiples of it
  static constexpr int kSharedBytes = kSteps * kStepBytes + kPattern;
};

namespace detail {

constexpr int kRowBytes = 128;               // of shared memory; 64 elements
constexpr int kPanelBytes = 64 * kRowBytes;  // 64 rows

// What the calling thread copies of an operand, 64 of the sum at a time: of every kRowsAtOnce-th row in global memory
// the same 16 bytes. Addresses are carried on from step to step: there are many copies beside few products.
template <Major kMajor>
class OperandCopies {
 public:
  __device__ OperandCopies(const TileOperand<__nv_bfloat16>& from, int64_t extent)
      : pitch_(from.pitch) {
    const int piece = static_cast<int>(threadIdx.x) % kPieces;
    const int row = static_cast<int>(threadIdx.x) / kPieces;
    from_ = from.data + row * pitch_ + 8 * piece;
    rows_ = static_cast<int>(kKMajor ? from.side : extent) - row;
    columns_ = static_cast<int>(kKMajor ? extent : from.side) - 8 * piece;
    to_ = piece / 8 * kPanelBytes + row * kRowBytes + ((piece % 8) ^ (row % 8)) * 16;
  }
  // Starts those of the next step. What does not exist is not read.
  __device__ void next(unsigned char* to) {
    const int rows = columns_ > 0 ? rows_ : 0;
    const __nv_bfloat16* from = from_;
#pragma unroll
    for (int i = 0; i < 4; ++i, from += kRowsAtOnce * pitch_)
      copy_async(to + to_ + i * kRowsAtOnce * kRowBytes, from, i * kRowsAtOnce < rows ? 16 : 0);
    from_ += kKMajor ? WarpgroupTile::kSum : WarpgroupTile::kSum * pitch_;
    (kKMajor ? columns_ : rows_) -= WarpgroupTile::kSum;
  }

 private:
  static constexpr bool kKMajor = kMajor == Major::kKMajor;
  static constexpr int kPieces = kKMajor ? 8 : 16;  // of 16 bytes, in a row of global memory
  static constexpr int kRowsAtOnce = WarpgroupTile::kThreads / kPieces;
  static_assert(kRowsAtOnce % 8 == 0);  // all rows of a thread are swizzled alike
  const __nv_bfloat16* from_;
  int64_t pitch_;
  int rows_, columns_;  // that exist, from the first on
  int to_;
};

}  // namespace detail

// sums += a b over S = extent; of the calling thread's warpgroup. `shared` holds kSharedBytes.
template <Major kA, Major kB>
__device__ void sum_products(float (&sums)[64], const TileOperand<__nv_bfloat16>& a,
                             const TileOperand<__nv_bfloat16>& b, int64_t extent,
                             unsigned char* shared) {
  using Tile = WarpgroupTile;
  shared += (Tile::kPattern - shared_address(shared) % Tile::kPattern) % Tile::kPattern;
  const auto steps = static_cast<int>((extent + Tile::kSum - 1) / Tile::kSum);
  detail::OperandCopies<kA> copies_a(a, extent);
  detail::OperandCopies<kB> copies_b(b, extent);
  const auto copy_step = [&](int step) {  // one after the other
    unsigned char* to = shared + step % Tile::kSteps * Tile::kStepBytes;
    if (step < steps) {
      copies_a.next(to);
      copies_b.next(to + Tile::kOperandBytes);
    }
    close_copies();
  };
  constexpr int kNextA =
      kA == Major::kKMajor ? 32 : 16 * detail::kRowBytes;  // 16 of the sum further on
  constexpr int kNextB = kB == Major::kKMajor ? 32 : 16 * detail::kRowBytes;
  // In a register that all lanes share, as descriptors are.
  const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  const int half = group * detail::kPanelBytes;
  const bool has_rows = group * 64 < a.side;  // else the tensor cores are the other warpgroup's
  for (int step = 0; step + 1 < Tile::kSteps; ++step) copy_step(step);
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<Tile::kSteps - 2>();
    publish_copies();
    __syncthreads();
    const unsigned char* at = shared + step % Tile::kSteps * Tile::kStepBytes;
    const uint64_t left = shared_operand(at + half, detail::kPanelBytes);
    const uint64_t right = shared_operand(at + Tile::kOperandBytes, detail::kPanelBytes);
    if (has_rows) {
      begin_products();
#pragma unroll
      for (int k = 0; k < Tile::kSum / 16; ++k)
        multiply<kA == Major::kMNMajor, kB == Major::kMNMajor>(sums, advance(left, k * kNextA),
                                                               advance(right, k * kNextB));
      close_products();
    }
    wait_for_products<1>();  // of the step before: its place may be copied over
    __syncthreads();
    copy_step(step + Tile::kSteps - 1);
  }
  wait_for_products<0>();
  wait_for_copies<0>();
}

}  // namespace nestling::cuda
