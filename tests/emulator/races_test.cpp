// Planted races that the preset `racecheck` reports, one a kernel, and the same kernels with what was missing,
// which it does not.
#include <gtest/gtest.h>
#include <mma.h>
#include <nestling_warp_mma.h>
#include <string>

#include <cuda_runtime.h>

#include "kernels/cuda/warpgroup.cuh"
#include "tests/emulator/planted.h"

namespace nestling {
namespace {

void expect_race(void (*kernel)(int*)) {
  const Outcome o = in_a_process([&] { run_and_print(kernel); });
  EXPECT_NE(o.output.find("ThreadSanitizer: data race"), std::string::npos) << o.output;
}
void expect_none(void (*kernel)(int*)) {
  const Outcome o = in_a_process([&] { run_and_print(kernel); });
  EXPECT_TRUE(o.ended_well()) << o.output;
  EXPECT_EQ(o.output.find("ThreadSanitizer"), std::string::npos) << o.output;
}

// Each thread writes its own place, and then reads its neighbour's.
enum class Between : uint8_t { kNothing, kBarrier, kWarp, kShuffle };
template <Between kBetween, int kReach>
void neighbours(int* out) {
  __shared__ int shared[kThreads];
  const int mine = static_cast<int>(threadIdx.x);
  for (int turn = 0; turn < 4; ++turn) {
    shared[mine] = mine + turn;
    if constexpr (kBetween == Between::kBarrier) __syncthreads();
    if constexpr (kBetween == Between::kWarp) __syncwarp();
    if constexpr (kBetween == Between::kShuffle) __shfl_xor_sync(0xffffffffu, mine, 1);
    out[mine] = shared[mine ^ kReach];
    if constexpr (kBetween == Between::kWarp && kReach < 32)
      __syncwarp();
    else
      __syncthreads();
  }
}

TEST(Races, WhatABarrierOfTheBlockOrders) {
  expect_none(neighbours<Between::kBarrier, 1>);
  expect_none(neighbours<Between::kBarrier, 32>);
  expect_race(neighbours<Between::kNothing, 32>);
}

TEST(Races, ABarrierOfTheWarpOrdersItsOwnLanesOnly) {
  expect_none(neighbours<Between::kWarp, 1>);
  expect_race(neighbours<Between::kWarp, 32>);
}

TEST(Races, AShuffleOrdersNothing) {
  expect_race(neighbours<Between::kShuffle, 1>);
}

// A barrier that is one too late: the next turn's write against this turn's read.
template <bool kWaits>
void turns(int* out) {
  __shared__ int shared[kThreads];
  const int mine = static_cast<int>(threadIdx.x);
  for (int turn = 0; turn < 2; ++turn) {
    shared[mine] = turn;
    __syncthreads();
    out[mine] = shared[(mine + 1) % kThreads];
    if constexpr (kWaits) __syncthreads();
  }
}
TEST(Races, AWriteOfTheNextTurnIsSeen) {
  expect_none(turns<true>);
  expect_race(turns<false>);
}

// Device memory as well, and atomics among themselves are no race.
void all_to_one(int* out) {
  out[0] = static_cast<int>(threadIdx.x);
}
void all_add_to_one(int* out) {
  atomicAdd(out, 1);
}
TEST(Races, DeviceMemoryIsWatched) {
  expect_race(all_to_one);
  expect_none(all_add_to_one);
}

template <bool kOrdered>
void tile_of_a_warp(int* out) {
  auto* tile = cuda::dynamic_shared<float>();
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums;
  nvcuda::wmma::fill_fragment(sums, 1.0f);
  if (threadIdx.x >= 32) return;
  nvcuda::wmma::store_matrix_sync(tile, sums, 16, nvcuda::wmma::mem_row_major);
  if constexpr (kOrdered) __syncwarp();
  out[threadIdx.x] = static_cast<int>(tile[threadIdx.x]);
}
template <bool kOrdered>
void matrices_of_a_warp(int* out) {
  auto* tile = cuda::dynamic_shared<__nv_bfloat16>();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x >= 32) return;
  for (int i = 0; i < 8; ++i) tile[8 * lane + i] = __float2bfloat16(1.0f);
  if constexpr (kOrdered) __syncwarp();
  uint32_t words[4];
  cuda::load_matrices<false>(words, tile + 8 * lane);
  out[lane] = static_cast<int>(words[1]);
}
TEST(Races, TilesOfAWarpAreOrderedByItsBarrier) {
  expect_none(tile_of_a_warp<true>);
  expect_race(tile_of_a_warp<false>);
  expect_none(matrices_of_a_warp<true>);
  expect_race(matrices_of_a_warp<false>);
}

// A copy has landed for the thread that waited, and for others once they have met.
template <bool kMeet>
void copies(int* out) {
  auto* shared = cuda::dynamic_shared<int>();
  const int mine = static_cast<int>(threadIdx.x);
  cuda::copy_async(shared + 4 * mine, out + mine / 4 * 4, 16);
  cuda::close_copies();
  cuda::wait_for_copies<0>();
  if constexpr (kMeet) __syncthreads();
  const int theirs = shared[(4 * mine + 4) % (4 * kThreads)];
  __syncthreads();
  out[mine] = theirs;
}
TEST(Races, ACopyIsTheThreadsOwnUntilTheBlockMeets) {
  expect_none(copies<true>);
  expect_race(copies<false>);
}

// A product reads its operands from its issue until it is waited for, however late others write or barriers come.
enum class Write : uint8_t { kBefore, kAtIssue, kAtWait };
template <Write kWrite>
void product(int*) {
  auto* shared = cuda::dynamic_shared<unsigned char>();
  unsigned char* tile = shared + (1024 - cuda::shared_address(shared) % 1024);
  const uint64_t operand = cuda::shared_operand(tile, 0);
  const auto write = [&] {
    for (int i = 0; i < 128; ++i) tile[128 * threadIdx.x + static_cast<unsigned>(i)] = 0;
  };
  float sums[32] = {};
  if (kWrite == Write::kBefore) write();
  if (kWrite != Write::kAtIssue) __syncthreads();
  if (kWrite == Write::kAtIssue) write();
  cuda::multiply<false, false>(sums, operand, operand);
  cuda::close_products();
  __syncthreads();
  if (kWrite == Write::kAtWait) write();
  cuda::wait_for_products<0>();
}
TEST(Races, AProductReadsFromIssueToWait) {
  expect_none(product<Write::kBefore>);
  expect_race(product<Write::kAtIssue>);
  expect_race(product<Write::kAtWait>);
}

}  // namespace
}  // namespace nestling
