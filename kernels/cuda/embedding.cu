// embedding.cu - rows by id, a warp a token and run of columns; the gradient by the tokens in the order of
// their ids, a warp an id and run of columns, each row added in token order.
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stream_state.h"
#include "kernels/cuda/token_order.h"
#include "kernels/ops/embedding.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kAtOnce = 4;  // packs in flight a lane, forward
constexpr int kRows = 8;    // and backward: one of each of so many rows

template <class Y, class W>
struct Gather {
  Y* y;
  const W* table;
  const int32_t* ids;
  FaultWord* fault;
  int64_t y_pitch, table_pitch, tokens, cols, vocabulary;
};

// kAtOnce packs of a row; `cols` of the columns are left, of a row that is absent none. kWhole: all of the
// packs are there, and the loads are free of branches.
template <int kN, bool kWhole, class Y, class W>
__device__ void copy_packs(Y* to, const W* from, int64_t cols, bool present) {
  constexpr int kStep = kWarp * kN;
  Pack<kN> x[kAtOnce];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u)
    x[u] = load_pack<kN>(from + u * kStep, kWhole ? kN : present ? cols - u * kStep : 0);
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u)
    store_pack(to + u * kStep, x[u], kWhole ? kN : cols - u * kStep);
}

// Block (tokens, run of columns).
template <int kN, class Y, class W>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<Y, W> g) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (t >= g.tokens) return;
  const int64_t id = g.ids[t];
  const bool known = id >= 0 && id < g.vocabulary;
  if (!known && blockIdx.y == 0 && threadIdx.x % kWarp == 0)
    report_fault(g.fault, FaultKind::kTokenId, t);
  const int64_t col = (int64_t{blockIdx.y} * kAtOnce * kWarp + threadIdx.x % kWarp) * kN;
  const W* from = g.table + (known ? id : 0) * g.table_pitch + col;
  Y* to = g.y + t * g.y_pitch + col;
  const int64_t cols = g.cols - col;
  if (known && cols >= (kAtOnce - 1) * kWarp * kN + kN)
    copy_packs<kN, true>(to, from, cols, true);
  else
    copy_packs<kN, false>(to, from, cols, known);
}

template <class Y>
struct Scatter {
  float* dtable;
  const Y* dy;
  TokenOrder order;
  FaultWord* fault;
  int64_t dtable_pitch, dy_pitch, tokens, cols, vocabulary;
};

// Adds the rows of the next tokens of those that the lanes hold, `count` of them or kRows. kWhole: the columns are all
// there, and the loads are free of branches.
template <int kN, bool kWhole, class Y>
__device__ void add_rows(Pack<kN>& sum, const Scatter<Y>& s, int32_t token, int from, int count,
                         int64_t col) {
  Pack<kN> x[kRows];
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int64_t t = __shfl_sync(0xffffffffu, token, (from + u) % kWarp);
    const Y* row = s.dy + t * s.dy_pitch + col;
    x[u] =
        kWhole ? load_whole<kN>(row, u < count) : load_pack<kN>(row, u < count ? s.cols - col : 0);
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u)
    if (u < count) {
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.v[i] += x[u].v[i];
    }
}

// Block (places in the order, run of columns). The warp at the first place of an id does all of it.
template <int kN, class Y>
__global__ void __launch_bounds__(kThreads) scatter_kernel(Scatter<Y> s) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (first >= s.tokens) return;
  const int32_t id = s.order.ids[first];
  if (first > 0 && s.order.ids[first - 1] == id) return;
  if (id >= s.vocabulary) {  // the first of those outside the table
    if (blockIdx.y == 0 && lane == 0)
      report_fault(s.fault, FaultKind::kTokenId, s.order.tokens[first]);
    return;
  }
  const int64_t col = (int64_t{blockIdx.y} * kWarp + lane) * kN;
  float* row = s.dtable + id * s.dtable_pitch + col;
  Pack<kN> sum = load_pack<kN>(row, s.cols - col);
  const bool whole = __all_sync(0xffffffffu, col + kN <= s.cols) != 0;
  int count = kWarp;
  for (int64_t at = first; count == kWarp; at += kWarp) {
    const int64_t i = at + lane;
    const bool mine = i < s.tokens && s.order.ids[i] == id;
    const int32_t token = mine ? s.order.tokens[i] : 0;
    count = __popc(__ballot_sync(0xffffffffu, mine));
    for (int k = 0; k < count; k += kRows) {
      if (whole)
        add_rows<kN, true>(sum, s, token, k, count - k, col);
      else
        add_rows<kN, false>(sum, s, token, k, count - k, col);
    }
  }
  store_pack(row, sum, s.cols - col);
}

// A warp a token, 8 a block, and columns in runs of `run`.
Grid grid_of(ConstView rows, int64_t run) {
  return {dim3(static_cast<unsigned>((rows.dim(0) + kWarps - 1) / kWarps),
               static_cast<unsigned>((rows.dim(1) + run - 1) / run)),
          kThreads};
}

template <class Y, class W>
void gather(Context& ctx, const EmbeddingForward& a) {
  const Gather<Y, W> g{.y = elements<Y>(a.y),
                       .table = elements<W>(a.table),
                       .ids = a.ids.ptr<int32_t>(),
                       .fault = ctx.cuda().fault,
                       .y_pitch = a.y.pitch(),
                       .table_pitch = a.table.pitch(),
                       .tokens = a.y.dim(0),
                       .cols = a.y.dim(1),
                       .vocabulary = a.table.dim(0)};
  if (packable(g.y, g.y_pitch) && packable(g.table, g.table_pitch))
    launch(ctx, grid_of(a.y, kAtOnce * kWarp * 4), gather_kernel<4, Y, W>, g);
  else
    launch(ctx, grid_of(a.y, kAtOnce * kWarp), gather_kernel<1, Y, W>, g);
}

}  // namespace

void run(Context& ctx, const EmbeddingForward& a) {
  if (a.y.size() == 0) return;
  if (a.table.dtype() == DType::kBF16)
    gather<float, __nv_bfloat16>(ctx, a);
  else
    gather<float, float>(ctx, a);
}

void run(Context& ctx, const EmbeddingBackward& a) {
  if (a.dy.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const Scatter<float> s{.dtable = a.dtable.ptr<float>(),
                         .dy = a.dy.ptr<float>(),
                         .order = order_tokens(ctx, a.ids, a.dtable.dim(0)),
                         .fault = ctx.cuda().fault,
                         .dtable_pitch = a.dtable.pitch(),
                         .dy_pitch = a.dy.pitch(),
                         .tokens = a.dy.dim(0),
                         .cols = a.dy.dim(1),
                         .vocabulary = a.dtable.dim(0)};
  if (packable(s.dtable, s.dtable_pitch) && packable(s.dy, s.dy_pitch))
    launch(ctx, grid_of(a.dy, kWarp * 4), scatter_kernel<4, float>, s);
  else
    launch(ctx, grid_of(a.dy, kWarp), scatter_kernel<1, float>, s);
}

}  // namespace nestling::cuda
