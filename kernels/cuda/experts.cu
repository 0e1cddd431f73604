// experts.cu - tokens to experts and back: gather, combine and their gradients. All are bound by
// memory: every row of the experts and of the tokens is read once and written once. A token's k rows are found
// by the inverse of `order`; lane j of its warp knows the j-th.
//
// gather            warp: a token and kHeld units a lane of its columns, loaded once and stored to its k rows
// combine, gather's a warp: a token and kHeld packs a lane; its rows, kRows at a time in flight, are added in the
//   gradient        order j = 0..k-1
// combine's         warp: a token, whole rows: dy is read once for its k rows; lane j keeps the dot product
//   gradient        of row j
//
// Units             gather moves 16 bytes at a time, of whatever type, where rows are whole units
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/experts.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTokens = kThreads / kWarp;  // of a block
constexpr int kHeld = 3;                   // packs of a lane at a time: 2688 columns are 7 pieces
constexpr int kRows = 3;                   // of a token, in flight together

// The columns that a warp has at a time, and where among them this lane's first pack begins; its next are
// kStep further each.
template <int kN>
inline constexpr int kStep = kN* kWarp;
template <int kN>
inline constexpr int kPiece = kStep<kN>* kHeld;
template <int kN>
__device__ int64_t first_column(int64_t piece) {
  return piece * kPiece<kN> + threadIdx.x % kWarp * kN;
}
__device__ int64_t token_of_warp() {
  return int64_t{blockIdx.x} * kTokens + threadIdx.x / kWarp;
}

template <class X>
struct Matrix {
  X* data;
  int64_t pitch;
  __device__ X* row(int64_t r) const { return data + r * pitch; }
};

// A warp's token: which of its rows there are from `first` on, one a lane.
struct Rows {
  int count;
  int own;  // this lane's

  __device__ Rows(const int32_t* position, int64_t t, int64_t k, int64_t first)
      : count(static_cast<int>(min(k - first, int64_t{kWarp}))) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    own = lane < count ? position[t * k + first + lane] : 0;
  }
  __device__ int64_t operator[](int j) const { return __shfl_sync(0xffffffffu, own, j % kWarp); }
};

template <class Unit>
struct Gather {
  Matrix<Unit> rows;
  Matrix<const Unit> x;
  const int32_t* position;
  int64_t tokens, k, width;
};

template <class Unit>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<Unit> g) {
  const int64_t t = token_of_warp();
  if (t >= g.tokens) return;  // a whole warp
  const int64_t c = first_column<1>(blockIdx.y);
  const Unit* from = g.x.row(t) + c;
  Unit held[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (c + i * kStep<1> < g.width) held[i] = from[i * kStep<1>];
  for (int64_t first = 0; first < g.k; first += kWarp) {
    const Rows rows(g.position, t, g.k, first);
    for (int j = 0; j < rows.count; ++j) {
      Unit* to = g.rows.row(rows[j]) + c;
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (c + i * kStep<1> < g.width) to[i * kStep<1>] = held[i];
    }
  }
}

// position[pair] = row: the inverse of order.
__global__ void invert_kernel(int32_t* position, const int32_t* order, int64_t count) {
  for (int64_t r = first_item(); r < count; r += item_step())
    position[order[r]] = static_cast<int32_t>(r);
}

// kHeld packs of a row that begins at the lane's first column, of which `left` columns are left.
template <int kN, class X>
__device__ void load_held(Pack<kN> (&to)[kHeld], const X* from, int64_t left) {
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    to[i] = load_whole<kN>(from + i * kStep<kN>, i * kStep<kN> < left);
}

template <class X>
struct Combine {
  Matrix<float> y;
  Matrix<const X> rows;
  Matrix<const float> weight;  // [T, k]; null: 1
  const int32_t* position;
  int64_t tokens, k, width;
  bool accumulate;
};

template <int kN, bool kWeighted, class X>
__global__ void __launch_bounds__(kThreads) combine_kernel(Combine<X> c) {
  const int64_t t = token_of_warp();
  if (t >= c.tokens) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t d = first_column<kN>(blockIdx.y);
  const int64_t left = c.width - d;
  float* y = c.y.row(t) + d;
  Pack<kN> sum[kHeld];
  load_held<kN>(sum, y, c.accumulate ? left : 0);
  for (int64_t first = 0; first < c.k; first += kWarp) {
    const Rows rows(c.position, t, c.k, first);
    float own = 1.0f;
    if (kWeighted && lane < rows.count) own = c.weight.row(t)[first + lane];
    for (int j = 0; j < rows.count; j += kRows) {
      Pack<kN> x[kRows][kHeld];
#pragma unroll
      for (int u = 0; u < kRows; ++u)
        load_held<kN>(x[u], c.rows.row(rows[j + u]) + d, j + u < rows.count ? left : 0);
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const float weight = kWeighted ? __shfl_sync(0xffffffffu, own, (j + u) % kWarp) : 1.0f;
        if (j + u >= rows.count) continue;
#pragma unroll
        for (int i = 0; i < kHeld; ++i)
#pragma unroll
          for (int n = 0; n < kN; ++n) sum[i].v[n] += weight * x[u][i].v[n];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (i * kStep<kN> < left) store_pack(y + i * kStep<kN>, sum[i]);
}

template <class X>
struct CombineBackward {
  Matrix<X> drows;
  Matrix<float> dweight;
  Matrix<const float> dy;
  Matrix<const X> rows;
  Matrix<const float> weight;
  const int32_t* position;
  int64_t tokens, k, width;
};

// Of kHeld packs: drow = weight dy; this lane's part of dy . row
template <int kN, class X>
__device__ float scale_and_dot(X* drow, const Pack<kN> (&row)[kHeld], const Pack<kN> (&dy)[kHeld],
                               float weight, int64_t left) {
  float dot = 0.0f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    Pack<kN> scaled;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      dot += dy[i].v[n] * row[i].v[n];
      scaled.v[n] = weight * dy[i].v[n];
    }
    if (i * kStep<kN> < left) store_pack(drow + i * kStep<kN>, scaled);
  }
  return dot;
}

template <int kN, class X>
__global__ void __launch_bounds__(kThreads) combine_backward_kernel(CombineBackward<X> c) {
  const int64_t t = token_of_warp();
  if (t >= c.tokens) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t first = 0; first < c.k; first += kWarp) {
    const Rows rows(c.position, t, c.k, first);
    const float own_weight = lane < rows.count ? c.weight.row(t)[first + lane] : 0.0f;
    float own = 0.0f;
    for (int64_t piece = 0; piece * kPiece<kN> < c.width; ++piece) {
      const int64_t d = first_column<kN>(piece);
      const int64_t left = c.width - d;
      Pack<kN> dy[kHeld];
      load_held<kN>(dy, c.dy.row(t) + d, left);
      for (int j = 0; j < rows.count; j += kRows) {
        Pack<kN> x[kRows][kHeld];
        int64_t row[kRows];
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          row[u] = rows[j + u];
          load_held<kN>(x[u], c.rows.row(row[u]) + d, j + u < rows.count ? left : 0);
        }
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const float weight = __shfl_sync(0xffffffffu, own_weight, (j + u) % kWarp);
          const float dot = warp_sum(scale_and_dot<kN>(c.drows.row(row[u]) + d, x[u], dy, weight,
                                                       j + u < rows.count ? left : 0));
          if (lane == j + u) own += dot;
        }
      }
    }
    if (lane < rows.count) c.dweight.row(t)[first + lane] = own;
  }
}

template <class X>
Matrix<X> matrix(View v) {
  return {elements<X>(v), v.pitch()};
}
template <class X>
Matrix<const X> matrix(ConstView v) {
  return {elements<X>(v), v.pitch()};
}

// One warp a token; blockIdx.y walks the pieces of its columns.
template <int kN>
dim3 blocks_of_pieces(int64_t tokens, int64_t width) {
  return dim3(static_cast<unsigned>((tokens + kTokens - 1) / kTokens),
              static_cast<unsigned>((width + kPiece<kN> - 1) / kPiece<kN>));
}
unsigned blocks_of_tokens(int64_t tokens) {
  return static_cast<unsigned>((tokens + kTokens - 1) / kTokens);
}

// Whether the rows of these views can be read and written in whole packs of 4.
template <class... Views>
bool whole_packs(const Views&... v) {
  return (whole_rows(v, 4 * dtype_bytes(v.dtype())) && ...);
}

const int32_t* invert(Context& ctx, ConstView order) {
  const int64_t n = order.dim(0);
  auto* position = ctx.scratch().alloc(DType::kI32, {n}).ptr<int32_t>();
  launch(ctx, {blocks_for(n), kThreads}, invert_kernel, position, order.ptr<int32_t>(), n);
  return position;
}

template <bool kWeighted, class X>
void combine(Context& ctx, View y, ConstView rows, ConstView weight, ConstView order,
             bool accumulate) {
  if (y.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const Combine<X> c{.y = matrix<float>(y),
                     .rows = matrix<X>(rows),
                     .weight = kWeighted ? matrix<float>(weight) : Matrix<const float>{},
                     .position = invert(ctx, order),
                     .tokens = y.dim(0),
                     .k = rows.dim(0) / y.dim(0),
                     .width = y.dim(1),
                     .accumulate = accumulate};
  if (whole_packs(y, rows))
    launch(ctx, {blocks_of_pieces<4>(c.tokens, c.width), kThreads}, combine_kernel<4, kWeighted, X>,
           c);
  else
    launch(ctx, {blocks_of_pieces<1>(c.tokens, c.width), kThreads}, combine_kernel<1, kWeighted, X>,
           c);
}

template <class Unit>
void gather(Context& ctx, const ExpertGather& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t elements = static_cast<int64_t>(sizeof(Unit)) / dtype_bytes(a.x.dtype());
  const Gather<Unit> g{.rows = {reinterpret_cast<Unit*>(a.rows.data()), a.rows.pitch() / elements},
                       .x = {reinterpret_cast<const Unit*>(a.x.data()), a.x.pitch() / elements},
                       .position = invert(ctx, a.order),
                       .tokens = a.x.dim(0),
                       .k = a.rows.dim(0) / a.x.dim(0),
                       .width = a.x.dim(1) / elements};
  launch(ctx, {blocks_of_pieces<1>(g.tokens, g.width), kThreads}, gather_kernel<Unit>, g);
}

template <class X>
void combine_backward(Context& ctx, const ExpertCombineBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const CombineBackward<X> c{.drows = matrix<X>(a.drows),
                             .dweight = matrix<float>(a.dweight),
                             .dy = matrix<float>(a.dy),
                             .rows = matrix<X>(a.rows),
                             .weight = matrix<float>(a.weight),
                             .position = invert(ctx, a.order),
                             .tokens = a.dy.dim(0),
                             .k = a.weight.dim(1),
                             .width = a.rows.dim(1)};
  if (whole_packs(a.drows, a.dy, a.rows))
    launch(ctx, {blocks_of_tokens(c.tokens), kThreads}, combine_backward_kernel<4, X>, c);
  else
    launch(ctx, {blocks_of_tokens(c.tokens), kThreads}, combine_backward_kernel<1, X>, c);
}

}  // namespace

void run(Context& ctx, const ExpertGather& a) {
  if (a.rows.size() == 0) return;
  if (whole_rows({a.rows, a.x}, sizeof(uint4))) return gather<uint4>(ctx, a);
  with_elements(a.rows, [&]<class X>(X) { gather<X>(ctx, a); });
}

void run(Context& ctx, const ExpertCombine& a) {
  with_elements(a.rows, [&]<class X>(X) {
    combine<true, X>(ctx, a.y, a.rows, a.weight, a.order, a.accumulate);
  });
}

void run(Context& ctx, const ExpertGatherBackward& a) {
  with_elements(a.drows, [&]<class X>(X) {
    combine<false, X>(ctx, a.dx, a.drows, {}, a.order, a.accumulate);
  });
}

void run(Context& ctx, const ExpertCombineBackward& a) {
  if (a.rows.dim(0) == 0) return;
  with_elements(a.rows, [&]<class X>(X) { combine_backward<X>(ctx, a); });
}

}  // namespace nestling::cuda
