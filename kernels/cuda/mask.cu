// mask.cu - width masks. A warp takes 32 packs of columns, a block 8 rows of them at a time; each block
// walks its part of the rows, in whole turns. dm is summed by row parts, then over the parts: a fixed order.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/mask.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kAtOnce = 4;         // rows in flight a warp
constexpr int64_t kBlocks = 2112;  // 16 a multiprocessor of an H100

template <class X>
struct Mask {
  X* out;          // in times m
  const X* in;     // x, or dy
  const X* other;  // x where the products in * other are summed
  const float* m;
  float* parts;  // [gridDim.y, cols]
  int64_t out_pitch, in_pitch, other_pitch, rows, cols, repeat;
  int64_t part;  // rows of a block
};

// The sums of a block's warps, added in their order, to its part.
template <int kN>
__device__ void store_sums(const Pack<kN>& sum, float* part, int64_t cols) {
  __shared__ float sums[kWarps][kWarp * kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) sums[threadIdx.x / kWarp][threadIdx.x % kWarp * kN + i] = sum.v[i];
  __syncthreads();
  const int64_t col = int64_t{blockIdx.x} * kWarp * kN + threadIdx.x;
  if (threadIdx.x >= kWarp * kN || col >= cols) return;
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
  part[col] = total;
}

// kAtOnce rows from r on; n columns of those before `end`. kWhole: all of them are there, and the loads
// are free of branches.
template <int kN, bool kSum, bool kWhole, class X>
__device__ void multiply_rows(const Mask<X>& a, int64_t r, int64_t end, int64_t col, int64_t n,
                              const Pack<kN>& m, Pack<kN>& sum) {
  const auto some = [&](int u) { return kWhole ? kN : r + u * kWarps < end ? n : 0; };
  Pack<kN> in[kAtOnce], other[kSum ? kAtOnce : 1];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    const int64_t row = r + u * kWarps;
    in[u] = load_pack<kN>(a.in + row * a.in_pitch + col, some(u));
    if constexpr (kSum) other[u] = load_pack<kN>(a.other + row * a.other_pitch + col, some(u));
  }
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    Pack<kN> out;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      out.v[i] = in[u].v[i] * m.v[i];
      if constexpr (kSum) sum.v[i] = fmaf(in[u].v[i], other[u].v[i], sum.v[i]);
    }
    store_pack(a.out + (r + u * kWarps) * a.out_pitch + col, out, some(u));
  }
}

// Block (run of columns, part of the rows).
template <int kN, bool kSum, class X>
__global__ void __launch_bounds__(kThreads, kSum ? 3 : 4) mask_kernel(Mask<X> a) {
  const int64_t col = (int64_t{blockIdx.x} * kWarp + threadIdx.x % kWarp) * kN;
  const int64_t n = max(int64_t{0}, min(int64_t{kN}, a.cols - col));
  const int64_t first = blockIdx.y * a.part;
  const int64_t end = min(a.rows, first + a.part);
  Pack<kN> m, sum;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    m.v[i] = i < n ? a.m[a.repeat == 1 ? col + i : (col + i) / a.repeat] : 0.0f;
    sum.v[i] = 0.0f;
  }
  for (int64_t r = first + threadIdx.x / kWarp; r < end; r += kAtOnce * kWarps) {
    if (n == kN && r + (kAtOnce - 1) * kWarps < end)
      multiply_rows<kN, kSum, true>(a, r, end, col, n, m, sum);
    else
      multiply_rows<kN, kSum, false>(a, r, end, col, n, m, sum);
  }
  if constexpr (kSum) store_sums(sum, a.parts + blockIdx.y * a.cols, a.cols);
}

// A warp an entry of dm: a lane adds the parts of every 32nd of its `repeat` columns.
__global__ void __launch_bounds__(kThreads)
    add_repeats_kernel(float* dm, const float* parts, int64_t count, int64_t entries,
                       int64_t repeat) {
  const int64_t entry = first_item() / kWarp;
  if (entry >= entries) return;  // a whole warp
  float sum = 0.0f;
  for (int64_t c = threadIdx.x % kWarp; c < repeat; c += kWarp) {
#pragma unroll 8
    for (int64_t p = 0; p < count; ++p) sum += parts[p * entries * repeat + entry * repeat + c];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) dm[entry] += sum;
}

void add_repeats(Context& ctx, View dm, const float* parts, int64_t count, int64_t repeat) {
  if (repeat == 1) return add_parts(ctx, dm, parts, count, dm.dim(0));
  const auto blocks = static_cast<unsigned>((dm.dim(0) + kWarps - 1) / kWarps);
  launch(ctx, {blocks, kThreads}, add_repeats_kernel, dm.ptr<float>(), parts, count, dm.dim(0),
         repeat);
}

// out = in m; where there is dm, dm += the sums of in * other.
template <class X>
void multiply(Context& ctx, View out, ConstView in, ConstView other, ConstView m, View dm,
              int64_t repeat) {
  if (in.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  Mask<X> a{.out = elements<X>(out),
            .in = elements<X>(in),
            .other = elements<X>(other),
            .m = m.ptr<float>(),
            .parts = nullptr,
            .out_pitch = out.pitch(),
            .in_pitch = in.pitch(),
            .other_pitch = other.pitch(),
            .rows = in.dim(0),
            .cols = in.dim(1),
            .repeat = repeat,
            .part = 0};
  const bool packs = packable(a.out, a.out_pitch) && packable(a.in, a.in_pitch) &&
                     packable(a.other, a.other_pitch);
  const int64_t run = packs ? 4 * kWarp : kWarp;
  const int64_t runs = (a.cols + run - 1) / run;
  const int64_t wanted = std::max<int64_t>(1, kBlocks / runs);
  constexpr int64_t kTurn = kAtOnce * kWarps;  // rows that a block takes at a time
  a.part = ((a.rows + wanted - 1) / wanted + kTurn - 1) / kTurn * kTurn;
  const int64_t parts = (a.rows + a.part - 1) / a.part;
  const Grid grid{dim3(static_cast<unsigned>(runs), static_cast<unsigned>(parts)), kThreads};
  if (!dm) {
    launch(ctx, grid, packs ? mask_kernel<4, false, X> : mask_kernel<1, false, X>, a);
    return;
  }
  a.parts = ctx.scratch().floats(parts * a.cols);
  launch(ctx, grid, packs ? mask_kernel<4, true, X> : mask_kernel<1, true, X>, a);
  add_repeats(ctx, dm, a.parts, parts, repeat);
}

}  // namespace

void run(Context& ctx, const MaskForward& a) {
  with_elements(a.x, [&]<class X>(X) { multiply<X>(ctx, a.y, a.x, a.x, a.m, View(), a.repeat); });
}
void run(Context& ctx, const MaskBackward& a) {
  with_elements(a.x, [&]<class X>(X) { multiply<X>(ctx, a.dx, a.dy, a.x, a.m, a.dm, a.repeat); });
}

}  // namespace nestling::cuda
