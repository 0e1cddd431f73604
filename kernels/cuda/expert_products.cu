// expert_products.cu - one product an expert, over as many rows as it was given; the counts are known to
// the device alone.
//
// Forward, dx   block: a tile of one expert's rows and of the columns. Blocks are launched for the most
//               tiles that the rows can make, sum over experts of ceil(rows / tile) <= R / tile + E, and
//               each finds its own from the offsets; those left over return. The columns of a tile of
//               rows are neighbours, and so are the tiles of an expert: its weights stay in L2.
// dw            block: a tile of one expert's gradient, summed over that expert's rows in their order.
// bf16 weights  tensor cores; f32 activations are rounded once, in scratch. f32: FMA.
// Warpgroups    do the products of bf16 on Hopper, where every row starts at a multiple of 16 bytes:
//               expert_warpgroups.cu.
// Few rows      below kFewRows an expert on average, of all experts where those of a part are multiplied: tiles of 16 rows and a long step: the weights are
//               what is waited for.
#include <algorithm>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/expert_products.h"
#include "kernels/cuda/expert_tiles.cuh"
#include "kernels/cuda/expert_warpgroups.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/rounded.h"
#include "kernels/cuda/tile_product.cuh"
#include "kernels/ops/experts.h"

namespace nestling::cuda {

namespace {

using ManyRows = ProductTile<128, 128, 32, 2, 4>;
using FewRows = ProductTile<16, 64, 128, 1, 4>;
using FloatTile = ProductTile<128, 128, 16, 2, 4>;
constexpr int64_t kFewRows = 16;

template <class T, class Y>
struct RowsProduct {
  Y* out;      // [R, columns]
  const T* a;  // [R, inner]
  const T* w;  // [E, columns, inner], or [E, inner, columns] where the columns run along memory
  const int32_t* offsets;
  int64_t out_pitch, a_pitch, w_expert, w_pitch;
  int64_t inner, columns;
  int experts;
  unsigned column_tiles;
};

template <class Plan, class Y>
__global__ void __launch_bounds__(Plan::Shape::kThreads, 2)
    rows_kernel(RowsProduct<typename Plan::T, Y> p) {
  using T = typename Plan::T;
  using Shape = typename Plan::Shape;
  __shared__ __align__(128) unsigned char memory[Plan::kSharedBytes];
  const ExpertTile tile = find_tile(p.offsets, p.experts, blockIdx.x / p.column_tiles, Shape::kM);
  if (tile.rows == 0) return;
  const int64_t column = int64_t{blockIdx.x % p.column_tiles} * Shape::kN;
  const int64_t at = Plan::B::kMajor == Major::kKMajor ? column * p.w_pitch : column;
  const TileOperand<T> a{p.a + tile.first * p.a_pitch, p.a_pitch, tile.rows};
  const TileOperand<T> b{p.w + tile.expert * p.w_expert + at, p.w_pitch, p.columns - column};
  typename Plan::Sums sums;
  sum_products<Plan>(sums, a, b, p.inner, reinterpret_cast<T*>(memory));
  Y* out = p.out + tile.first * p.out_pitch + column;
  const auto width = static_cast<int>(min(p.columns - column, int64_t{Shape::kN}));
  sums.each(reinterpret_cast<float*>(memory), [&](int r, int c, float sum) {
    if (r < tile.rows && c < width) store(out + r * p.out_pitch + c, sum);
  });
}

template <class T>
struct WeightProduct {
  float* dw;    // [E, N, K]
  const T* dy;  // [R, N]
  const T* x;   // [R, K]
  const int32_t* offsets;
  int64_t dw_expert, dw_pitch, dy_pitch, x_pitch, n, k;
  unsigned tiles_n, tiles_k;
  bool accumulate;
};

template <class Plan>
__global__ void __launch_bounds__(Plan::Shape::kThreads, 2)
    weight_kernel(WeightProduct<typename Plan::T> p) {
  using T = typename Plan::T;
  using Shape = typename Plan::Shape;
  __shared__ __align__(128) unsigned char memory[Plan::kSharedBytes];
  const unsigned expert = blockIdx.x / (p.tiles_n * p.tiles_k);
  const int64_t n = int64_t{blockIdx.x / p.tiles_k % p.tiles_n} * Shape::kM;
  const int64_t k = int64_t{blockIdx.x % p.tiles_k} * Shape::kN;
  const int64_t first = p.offsets[expert];
  const int64_t rows = p.offsets[expert + 1] - first;
  if (rows == 0 && p.accumulate) return;
  const TileOperand<T> a{p.dy + first * p.dy_pitch + n, p.dy_pitch, p.n - n};
  const TileOperand<T> b{p.x + first * p.x_pitch + k, p.x_pitch, p.k - k};
  typename Plan::Sums sums;
  sum_products<Plan>(sums, a, b, rows, reinterpret_cast<T*>(memory));
  float* dw = p.dw + expert * p.dw_expert + n * p.dw_pitch + k;
  const auto height = static_cast<int>(min(p.n - n, int64_t{Shape::kM}));
  const auto width = static_cast<int>(min(p.k - k, int64_t{Shape::kN}));
  sums.each(reinterpret_cast<float*>(memory), [&](int r, int c, float sum) {
    if (r >= height || c >= width) return;
    float* to = dw + r * p.dw_pitch + c;
    *to = p.accumulate ? *to + sum : sum;
  });
}

template <class Plan, class Y>
void launch_rows(Context& ctx, RowsProduct<typename Plan::T, Y> p, int64_t rows) {
  using Shape = typename Plan::Shape;
  const int64_t slots = std::min(rows, rows / Shape::kM + p.experts);
  p.column_tiles = tiles_of(p.columns, Shape::kN);
  const int64_t blocks = slots * p.column_tiles;
  launch(ctx, {static_cast<unsigned>(blocks), Shape::kThreads}, rows_kernel<Plan, Y>, p);
}

// out[rows of e] = a[rows of e] op(w[e]); kMajor: of w, as the right operand.
template <class T, class Y, Major kMajor, class Shape>
void rows_product(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets) {
  constexpr int kVector = 16 / sizeof(T);
  const RowsProduct<T, Y> p{.out = elements<Y>(out),
                            .a = elements<T>(a),
                            .w = elements<T>(w),
                            .offsets = offsets.ptr<int32_t>(),
                            .out_pitch = out.pitch(),
                            .a_pitch = a.pitch(),
                            .w_expert = w.stride(0),
                            .w_pitch = w.stride(1),
                            .inner = a.dim(1),
                            .columns = out.dim(1),
                            .experts = static_cast<int>(w.dim(0)),
                            .column_tiles = 0};
  if (whole_rows({a, w}, 16))
    launch_rows<TilePlan<T, kVector, Shape, Major::kKMajor, kMajor>>(ctx, p, a.dim(0));
  else
    launch_rows<TilePlan<T, 1, Shape, Major::kKMajor, kMajor>>(ctx, p, a.dim(0));
}

template <Major kMajor>
void rows_product(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets,
                  int64_t all) {
  if (w.dtype() == DType::kF32)
    return rows_product<float, float, kMajor, FloatTile>(ctx, out, a, w, offsets);
  const bool few = a.dim(0) < kFewRows * all;
  if (!few && warpgroups_can(ctx, {a, w, out}))
    return rows_on_warpgroups(ctx, out, a, w, offsets, kMajor == Major::kKMajor);
  with_elements(out, [&]<class Y>(Y) {
    if (few)
      rows_product<__nv_bfloat16, Y, kMajor, FewRows>(ctx, out, a, w, offsets);
    else
      rows_product<__nv_bfloat16, Y, kMajor, ManyRows>(ctx, out, a, w, offsets);
  });
}

template <class T, class Shape>
void weight_product(Context& ctx, View dw, ConstView dy, ConstView x, ConstView offsets,
                    bool accumulate) {
  constexpr int kVector = 16 / sizeof(T);
  const WeightProduct<T> p{.dw = dw.ptr<float>(),
                           .dy = elements<T>(dy),
                           .x = elements<T>(x),
                           .offsets = offsets.ptr<int32_t>(),
                           .dw_expert = dw.stride(0),
                           .dw_pitch = dw.stride(1),
                           .dy_pitch = dy.pitch(),
                           .x_pitch = x.pitch(),
                           .n = dw.dim(1),
                           .k = dw.dim(2),
                           .tiles_n = tiles_of(dw.dim(1), Shape::kM),
                           .tiles_k = tiles_of(dw.dim(2), Shape::kN),
                           .accumulate = accumulate};
  const auto experts = static_cast<unsigned>(dw.dim(0));
  const Grid grid{experts * p.tiles_n * p.tiles_k, Shape::kThreads};
  if (whole_rows({dy, x}, 16))
    launch(ctx, grid, weight_kernel<TilePlan<T, kVector, Shape, Major::kMNMajor, Major::kMNMajor>>,
           p);
  else
    launch(ctx, grid, weight_kernel<TilePlan<T, 1, Shape, Major::kMNMajor, Major::kMNMajor>>, p);
}

}  // namespace

void part_of_experts(Context& ctx, View y, ConstView x, ConstView w, ConstView offsets,
                     int64_t all) {
  rows_product<Major::kKMajor>(ctx, y, x, w, offsets, all);
}

void run(Context& ctx, const ExpertLinearForward& a) {
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  rows_product<Major::kKMajor>(ctx, a.y, like_weight(ctx, a.x, a.w), a.w, a.offsets, a.w.dim(0));
}

void run(Context& ctx, const ExpertLinearBackward& a) {
  if (a.x.dim(0) == 0) {
    if (a.dw && !a.accumulate_dw) fill_zero(ctx, a.dw);
    return;
  }
  const Arena::Mark mark(ctx.scratch());
  const ConstView dy = like_weight(ctx, a.dy, a.w);
  rows_product<Major::kMNMajor>(ctx, a.dx, dy, a.w, a.offsets, a.w.dim(0));
  if (!a.dw) return;
  const ConstView x = like_weight(ctx, a.x, a.w);
  if (a.w.dtype() == DType::kF32)
    weight_product<float, FloatTile>(ctx, a.dw, dy, x, a.offsets, a.accumulate_dw);
  else if (warpgroups_can(ctx, {dy, x, a.dw}))
    weights_on_warpgroups(ctx, a.dw, dy, x, a.offsets, a.accumulate_dw);
  else
    weight_product<__nv_bfloat16, ManyRows>(ctx, a.dw, dy, x, a.offsets, a.accumulate_dw);
}

}  // namespace nestling::cuda
