// experts.cu - tokens to experts and back: gather, combine and their gradients. All are bound by
// memory: every row of the experts is read once and written once.
//
// gather            warp: a row and 4 packs a lane of its columns, loaded before the first is stored
// combine, gather's a warp: a token and 4 packs a lane; its k rows, found by the inverse of `order`, are
//   gradient        added in the order j = 0..k-1
// combine's         warp: a token, whole rows: dy is read once for its k rows; lane j keeps the dot product
//   gradient        of row j
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/experts.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRows = kThreads / kWarp;  // of a block
constexpr int kPacks = 4;                // of a lane at a time

// The columns that a warp has at a time, and where among them pack i of this lane begins.
template <int kN>
inline constexpr int kPiece = kN* kWarp* kPacks;
template <int kN>
__device__ int64_t pack_column(int64_t piece, int i) {
  return piece * kPiece<kN> + (i * kWarp + threadIdx.x % kWarp) * kN;
}
__device__ int64_t row_of_warp() {
  return int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
}

template <class X>
struct Matrix {
  X* data;
  int64_t pitch;
  __device__ X* row(int64_t r) const { return data + r * pitch; }
};

template <class X>
struct Gather {
  Matrix<X> rows;
  Matrix<const X> x;
  const int32_t* order;
  int64_t count, k, width;
};

template <int kN, class X>
__global__ void __launch_bounds__(kThreads) gather_kernel(Gather<X> g) {
  const int64_t r = row_of_warp();
  if (r >= g.count) return;
  const X* from = g.x.row(g.order[r] / static_cast<int>(g.k));
  X* to = g.rows.row(r);
  Pack<kN> held[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t c = pack_column<kN>(blockIdx.y, i);
    held[i] = load_pack<kN>(from + c, g.width - c);
  }
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t c = pack_column<kN>(blockIdx.y, i);
    store_pack(to + c, held[i], g.width - c);
  }
}

// position[pair] = row: the inverse of order.
__global__ void invert_kernel(int32_t* position, const int32_t* order, int64_t count) {
  for (int64_t r = first_item(); r < count; r += item_step())
    position[order[r]] = static_cast<int32_t>(r);
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
  const int64_t t = row_of_warp();
  if (t >= c.tokens) return;
  float* y = c.y.row(t);
  Pack<kN> sum[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t d = pack_column<kN>(blockIdx.y, i);
    sum[i] = load_pack<kN>(y + d, c.accumulate ? c.width - d : 0);
  }
  for (int64_t j = 0; j < c.k; ++j) {
    const X* row = c.rows.row(c.position[t * c.k + j]);
    const float weight = kWeighted ? c.weight.row(t)[j] : 1.0f;
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const int64_t d = pack_column<kN>(blockIdx.y, i);
      const Pack<kN> x = load_pack<kN>(row + d, c.width - d);
#pragma unroll
      for (int n = 0; n < kN; ++n) sum[i].v[n] += weight * x.v[n];
    }
  }
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t d = pack_column<kN>(blockIdx.y, i);
    store_pack(y + d, sum[i], c.width - d);
  }
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

// drow = weight dy; this lane's part of dy . row
template <int kN, class X>
__device__ float scale_and_dot(X* drow, const X* row, const Pack<kN> (&dy)[kPacks], float weight,
                               int64_t piece, int64_t width) {
  Pack<kN> x[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t d = pack_column<kN>(piece, i);
    x[i] = load_pack<kN>(row + d, width - d);
  }
  float dot = 0.0f;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int64_t d = pack_column<kN>(piece, i);
    Pack<kN> scaled;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      dot += dy[i].v[n] * x[i].v[n];
      scaled.v[n] = weight * dy[i].v[n];
    }
    store_pack(drow + d, scaled, width - d);
  }
  return dot;
}

template <int kN, class X>
__global__ void __launch_bounds__(kThreads) combine_backward_kernel(CombineBackward<X> c) {
  const int64_t t = row_of_warp();
  if (t >= c.tokens) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  const int32_t* position = c.position + t * c.k;
  for (int64_t first = 0; first < c.k; first += kWarp) {
    const int count = static_cast<int>(min(c.k - first, int64_t{kWarp}));
    float own = 0.0f;
    for (int64_t piece = 0; piece * kPiece<kN> < c.width; ++piece) {
      Pack<kN> dy[kPacks];
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        const int64_t d = pack_column<kN>(piece, i);
        dy[i] = load_pack<kN>(c.dy.row(t) + d, c.width - d);
      }
      for (int j = 0; j < count; ++j) {
        const int64_t r = position[first + j];
        const float dot = warp_sum(scale_and_dot<kN>(c.drows.row(r), c.rows.row(r), dy,
                                                     c.weight.row(t)[first + j], piece, c.width));
        if (lane == j) own += dot;
      }
    }
    if (lane < count) c.dweight.row(t)[first + lane] = own;
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

// One warp a row; blockIdx.y walks the pieces of its columns.
template <int kN>
dim3 blocks_of_pieces(int64_t rows, int64_t width) {
  return dim3(static_cast<unsigned>((rows + kRows - 1) / kRows),
              static_cast<unsigned>((width + kPiece<kN> - 1) / kPiece<kN>));
}
unsigned blocks_of_rows(int64_t rows) {
  return static_cast<unsigned>((rows + kRows - 1) / kRows);
}

template <class... Matrices>
bool all_packable(const Matrices&... m) {
  return (packable(m.data, m.pitch) && ...);
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
  if (all_packable(c.y, c.rows))
    launch(ctx, {blocks_of_pieces<4>(c.tokens, c.width), kThreads}, combine_kernel<4, kWeighted, X>,
           c);
  else
    launch(ctx, {blocks_of_pieces<1>(c.tokens, c.width), kThreads}, combine_kernel<1, kWeighted, X>,
           c);
}

template <class X>
void gather(Context& ctx, const ExpertGather& a) {
  const Gather<X> g{.rows = matrix<X>(a.rows),
                    .x = matrix<X>(a.x),
                    .order = a.order.ptr<int32_t>(),
                    .count = a.rows.dim(0),
                    .k = a.rows.dim(0) / a.x.dim(0),
                    .width = a.x.dim(1)};
  if (all_packable(g.rows, g.x))
    launch(ctx, {blocks_of_pieces<4>(g.count, g.width), kThreads}, gather_kernel<4, X>, g);
  else
    launch(ctx, {blocks_of_pieces<1>(g.count, g.width), kThreads}, gather_kernel<1, X>, g);
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
  if (all_packable(c.drows, c.dy, c.rows))
    launch(ctx, {blocks_of_rows(c.tokens), kThreads}, combine_backward_kernel<4, X>, c);
  else
    launch(ctx, {blocks_of_rows(c.tokens), kThreads}, combine_backward_kernel<1, X>, c);
}

}  // namespace

void run(Context& ctx, const ExpertGather& a) {
  if (a.rows.size() == 0) return;
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
