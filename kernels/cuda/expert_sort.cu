// expert_sort.cu - a stable counting sort of the pairs (token, choice) by expert, in three launches:
//
//   count   block: one tile of 2048 pairs; how many of them go to each expert
//   scan    warp: one expert; its counts become where each tile's rows start within the expert's
//   place   block: one tile; a warp takes 256 consecutive pairs, 32 at a time, and finds by votes how many
//           pairs of the same expert come before each
//
// Determinism   integers alone: the order is a function of `index`.
// Limits        1024 experts: a block holds 9 counts of each in shared memory.
#include <algorithm>

#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefix.cuh"
#include "kernels/ops/experts.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSteps = 8;  // pairs a lane
constexpr int kTile = kSteps * kThreads;
constexpr int64_t kMostExperts = 1024;

struct Pairs {
  const int32_t* index;
  int64_t pitch;
  int k, count, experts;
  FaultWord* fault;
};

// -1 behind the last pair. An index outside the experts is reported and taken for 0.
__device__ int expert_of(const Pairs& p, int pair) {
  if (pair >= p.count) return -1;
  const int t = pair / p.k;
  const int e = p.index[t * p.pitch + (pair - t * p.k)];
  if (e >= 0 && e < p.experts) return e;
  report_fault(p.fault, FaultKind::kExpertIndex, t);
  return 0;
}

// counts [experts, tiles]
__global__ void __launch_bounds__(kThreads) count_kernel(int* counts, Pairs p) {
  int* seen = dynamic_shared<int>();
  for (int e = threadIdx.x; e < p.experts; e += kThreads) seen[e] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int e = expert_of(p, blockIdx.x * kTile + i * kThreads + threadIdx.x);
    if (e >= 0) atomicAdd(&seen[e], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += kThreads)
    counts[int64_t{e} * gridDim.x + blockIdx.x] = seen[e];
}

// counts [experts, tiles]: of each tile, then of the tiles before it; totals [experts].
__global__ void __launch_bounds__(kThreads)
    scan_kernel(int* counts, int* totals, int experts, int tiles) {
  const int e = blockIdx.x * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (e >= experts) return;  // a whole warp
  int* own = counts + int64_t{e} * tiles;
  int before = 0;
  for (int base = 0; base < tiles; base += kWarp) {
    const int i = base + lane;
    const int n = i < tiles ? own[i] : 0;
    const int upto = warp_running_sum(n);
    if (i < tiles) own[i] = before + upto - n;
    before += warp_last(upto);
  }
  if (lane == 0) totals[e] = before;
}

// start[e] = where the rows of expert e begin that come from this tile; by the first warp. The first
// block writes the offsets of all experts too.
__device__ void find_starts(int* start, int32_t* offsets, const int* counts, const int* totals,
                            int experts) {
  const int lane = threadIdx.x % kWarp;
  int before = 0;
  for (int base = 0; base < experts; base += kWarp) {
    const int e = base + lane;
    const int n = e < experts ? totals[e] : 0;
    const int upto = warp_running_sum(n);
    if (e < experts) {
      const int first = before + upto - n;
      start[e] = first + counts[int64_t{e} * gridDim.x + blockIdx.x];
      if (blockIdx.x == 0) offsets[e] = first;
    }
    before += warp_last(upto);
  }
  if (blockIdx.x == 0 && lane == 0) offsets[experts] = before;
}

// The lanes whose e is this lane's, as bits; every e lies in [-1, 2^bits).
__device__ unsigned lanes_alike(int e, int bits) {
  unsigned alike = __ballot_sync(0xffffffffu, e >= 0);
  if (e < 0) alike = ~alike;
  for (int b = 0; b < bits; ++b) {
    const bool set = (e >> b & 1) != 0;
    const unsigned others = __ballot_sync(0xffffffffu, set);
    alike &= set ? others : ~others;
  }
  return alike;
}

__global__ void __launch_bounds__(kThreads)
    place_kernel(int32_t* order, int32_t* offsets, const int* counts, const int* totals, Pairs p) {
  int* start = dynamic_shared<int>();  // [experts]
  int* seen = start + p.experts;       // [warps, experts]: counts, then where a warp's rows start
  for (int i = threadIdx.x; i < kWarps * p.experts; i += kThreads) seen[i] = 0;
  if (threadIdx.x < kWarp) find_starts(start, offsets, counts, totals, p.experts);
  __syncthreads();

  const int lane = threadIdx.x % kWarp;
  int* own = seen + threadIdx.x / kWarp * p.experts;
  const int first = blockIdx.x * kTile + threadIdx.x / kWarp * (kSteps * kWarp) + lane;
  const int bits = 32 - __clz(p.experts - 1);
  int expert[kSteps], rank[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) expert[i] = expert_of(p, first + i * kWarp);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const unsigned alike = lanes_alike(expert[i], bits);
    const unsigned before = alike & ((1u << lane) - 1);
    rank[i] = expert[i] >= 0 ? own[expert[i]] + __popc(before) : 0;
    __syncwarp();
    if (expert[i] >= 0 && before == 0) own[expert[i]] += __popc(alike);
    __syncwarp();
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += kThreads) {
    int at = start[e];
    for (int w = 0; w < kWarps; ++w) {
      const int n = seen[w * p.experts + e];
      seen[w * p.experts + e] = at;
      at += n;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSteps; ++i)
    if (expert[i] >= 0) order[own[expert[i]] + rank[i]] = first + i * kWarp;
}

}  // namespace

void run(Context& ctx, const ExpertSort& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t experts = a.offsets.dim(0) - 1;
  NESTLING_CHECK(experts <= kMostExperts, "expert_sort: ", experts,
                 " experts, the CUDA kernel sorts ", kMostExperts);
  const Pairs p{.index = a.index.ptr<int32_t>(),
                .pitch = a.index.pitch(),
                .k = static_cast<int>(a.index.dim(1)),
                .count = static_cast<int>(a.index.size()),
                .experts = static_cast<int>(experts),
                .fault = ctx.cuda().fault};
  // Without pairs one block still writes the offsets.
  const int64_t tiles = std::max<int64_t>(1, (a.index.size() + kTile - 1) / kTile);
  const auto blocks = static_cast<unsigned>(tiles);
  int* counts = ctx.scratch().alloc(DType::kI32, {experts, tiles}).ptr<int32_t>();
  int* totals = ctx.scratch().alloc(DType::kI32, {experts}).ptr<int32_t>();
  const int64_t bytes = experts * static_cast<int64_t>(sizeof(int));
  launch(ctx, {blocks, kThreads, bytes}, count_kernel, counts, p);
  launch(ctx, {static_cast<unsigned>((experts + kWarps - 1) / kWarps), kThreads}, scan_kernel,
         counts, totals, p.experts, static_cast<int>(tiles));
  launch(ctx, {blocks, kThreads, (1 + kWarps) * bytes}, place_kernel, a.order.ptr<int32_t>(),
         a.offsets.ptr<int32_t>(), counts, totals, p);
}

}  // namespace nestling::cuda
