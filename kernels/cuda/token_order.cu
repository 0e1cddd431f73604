// token_order.cu - a stable radix sort of (id, token), 9 bits a pass. A block takes a tile of tokens:
//   1. count    how often each digit occurs in each tile
//   2. place    where in the output the tokens of each (digit, tile) begin
//   3. scatter  each token to its place among those of its tile with its digit
#include <bit>
#include <limits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/token_order.h"

namespace nestling::cuda {

namespace {

constexpr int kBits = 9;
constexpr int kDigits = 1 << kBits;
constexpr int kThreads = kDigits;  // a thread a digit
constexpr int kWarps = kThreads / kWarp;
constexpr int kRounds = 2;  // tokens a thread
constexpr int kTile = kThreads * kRounds;

struct Pass {
  int32_t* to_ids;
  int32_t* to_tokens;
  const int32_t* ids;
  const int32_t* tokens;  // null in the first pass: 0, 1, 2, ...
  int32_t* counts;        // [tiles, kDigits]; from `place` on, where they begin
  int32_t count, tiles, vocabulary, shift;
};

__device__ int32_t id_at(const Pass& p, int32_t i) {
  const int32_t id = p.ids[i];
  return id >= 0 && id < p.vocabulary ? id : p.vocabulary;
}
__device__ int digit_of(const Pass& p, int32_t id) {
  return id >> p.shift & (kDigits - 1);
}

__global__ void __launch_bounds__(kThreads) count_kernel(Pass p) {
  __shared__ int counts[kDigits];
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = blockIdx.x * kTile + r * kThreads + threadIdx.x;
    if (i < p.count) atomicAdd(&counts[digit_of(p, id_at(p, i))], 1);
  }
  __syncthreads();
  p.counts[blockIdx.x * kDigits + threadIdx.x] = counts[threadIdx.x];
}

// The sum of x over the threads before this one.
__device__ int sum_before(int x) {
  __shared__ int totals[kWarps];
  const int lane = threadIdx.x % kWarp;
  int sum = x;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == kWarp - 1) totals[threadIdx.x / kWarp] = sum;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(threadIdx.x) / kWarp; ++w) sum += totals[w];
  return sum - x;
}

// One block. Smaller digits come first, and within a digit earlier tiles.
__global__ void __launch_bounds__(kThreads) place_kernel(int32_t* counts, int32_t tiles) {
  int32_t* mine = counts + threadIdx.x;
  int total = 0;
#pragma unroll 8
  for (int32_t t = 0; t < tiles; ++t) total += mine[int64_t{t} * kDigits];
  int at = sum_before(total);
#pragma unroll 8
  for (int32_t t = 0; t < tiles; ++t) {
    const int here = mine[int64_t{t} * kDigits];
    mine[int64_t{t} * kDigits] = at;
    at += here;
  }
}

// The lanes of the warp with this lane's digit. kDigits itself stands for no token.
__device__ unsigned peers_of(int digit) {
  unsigned peers = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit <= kBits; ++bit) {
    const bool one = (digit >> bit & 1) != 0;
    const unsigned ones = __ballot_sync(0xffffffffu, one);
    peers &= one ? ones : ~ones;
  }
  return peers;
}

// A warp takes kRounds * 32 neighbouring tokens in order, counting its own digits.
__global__ void __launch_bounds__(kThreads) scatter_kernel(Pass p) {
  __shared__ int counts[kWarps][kDigits];
  for (int w = 0; w < kWarps; ++w) counts[w][threadIdx.x] = 0;
  __syncthreads();
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int32_t first = blockIdx.x * kTile + warp * kRounds * kWarp + lane;
  int32_t id[kRounds];
  int digit[kRounds], rank[kRounds];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = first + r * kWarp;
    id[r] = i < p.count ? id_at(p, i) : 0;
    digit[r] = i < p.count ? digit_of(p, id[r]) : kDigits;
    const unsigned peers = peers_of(digit[r]);
    const int before = __popc(peers & ((1u << lane) - 1));
    rank[r] = before + (i < p.count ? counts[warp][digit[r]] : 0);
    __syncwarp();  // all have read the count
    if (i < p.count && before == 0) counts[warp][digit[r]] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
  int at = p.counts[blockIdx.x * kDigits + threadIdx.x];
  for (int w = 0; w < kWarps; ++w) {  // earlier warps come first
    const int here = counts[w][threadIdx.x];
    counts[w][threadIdx.x] = at;
    at += here;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = first + r * kWarp;
    if (i >= p.count) continue;
    const int to = counts[warp][digit[r]] + rank[r];
    p.to_ids[to] = id[r];
    p.to_tokens[to] = p.tokens != nullptr ? p.tokens[i] : i;
  }
}

}  // namespace

TokenOrder order_tokens(Context& ctx, ConstView ids, int64_t vocabulary) {
  const int64_t count = ids.dim(0);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() - kTile;
  NESTLING_CHECK(count <= kMost && vocabulary <= kMost, "order_tokens: ", count, " tokens of ",
                 vocabulary, " ids, the CUDA kernels count to ", kMost);
  const auto ints = [&](int64_t n) { return ctx.scratch().alloc(DType::kI32, {n}).ptr<int32_t>(); };
  const auto tiles = static_cast<unsigned>((count + kTile - 1) / kTile);
  int32_t* to_ids[2] = {ints(count), ints(count)};
  int32_t* to_tokens[2] = {ints(count), ints(count)};
  Pass p{.to_ids = nullptr,
         .to_tokens = nullptr,
         .ids = ids.ptr<int32_t>(),
         .tokens = nullptr,
         .counts = ints(int64_t{tiles} * kDigits),
         .count = static_cast<int32_t>(count),
         .tiles = static_cast<int32_t>(tiles),
         .vocabulary = static_cast<int32_t>(vocabulary),
         .shift = 0};
  const int bits = std::bit_width(static_cast<uint64_t>(vocabulary));
  for (int pass = 0; pass * kBits < bits; ++pass) {
    p.to_ids = to_ids[pass % 2];
    p.to_tokens = to_tokens[pass % 2];
    p.shift = pass * kBits;
    launch(ctx, {tiles, kThreads}, count_kernel, p);
    launch(ctx, {1, kThreads}, place_kernel, p.counts, p.tiles);
    launch(ctx, {tiles, kThreads}, scatter_kernel, p);
    p.ids = p.to_ids;
    p.tokens = p.to_tokens;
  }
  return {p.ids, p.tokens};
}

}  // namespace nestling::cuda
