// expert_warpgroups.cu - one product an expert by tiles [128, 128] on warpgroups.
//
// Forward, dx   block: a tile of one expert's rows and of the columns, found from the offsets as in
//               expert_products.cu; columns of a tile of rows are neighbours.
// dw            block: a tile of one expert's gradient, over that expert's rows in their order.
// Two blocks    share a multiprocessor: one writes its sums while the other multiplies.
#include <algorithm>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/expert_tiles.cuh"
#include "kernels/cuda/expert_warpgroups.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warpgroup_tile.cuh"

namespace nestling::cuda {

namespace {

using warpgroups::store_sums;
using Tile = WarpgroupTile;
using Operand = TileOperand<__nv_bfloat16>;

// Of a tile's rows in memory, `rows` x `columns` from `first` on, those that the calling thread's warpgroup sums.
template <class T>
__device__ warpgroups::SumRows<T> own_rows(T* first, int64_t pitch, int64_t rows, int64_t columns) {
  const int begin = static_cast<int>(threadIdx.x) / 128 * 64;
  return {first + begin * pitch, pitch, static_cast<int>(min(rows, int64_t{Tile::kM})) - begin,
          static_cast<int>(min(columns, int64_t{Tile::kN}))};
}

template <class Y>
struct Rows {
  Y* out;                  // [R, columns]
  const __nv_bfloat16* a;  // [R, inner]
  const __nv_bfloat16*
      w;  // [E, columns, inner], or [E, inner, columns] where columns run along memory
  const int32_t* offsets;
  int64_t out_pitch, a_pitch, w_expert, w_pitch, inner, columns;
  int experts;
  unsigned column_tiles;
};

template <class Y, Major kW>
__global__ void __launch_bounds__(Tile::kThreads, 2) rows_kernel(Rows<Y> p) {
  const ExpertTile tile = find_tile(p.offsets, p.experts, blockIdx.x / p.column_tiles, Tile::kM);
  if (tile.rows == 0) return;
  const int64_t column = int64_t{blockIdx.x % p.column_tiles} * Tile::kN;
  const int64_t at = kW == Major::kKMajor ? column * p.w_pitch : column;
  const Operand a{p.a + tile.first * p.a_pitch, p.a_pitch, tile.rows};
  const Operand w{p.w + tile.expert * p.w_expert + at, p.w_pitch, p.columns - column};
  float sums[64] = {};
  sum_products<Major::kKMajor, kW>(sums, a, w, p.inner, dynamic_shared<unsigned char>());
  store_sums(own_rows(p.out + tile.first * p.out_pitch + column, p.out_pitch, tile.rows,
                      p.columns - column),
             sums);
}

struct WeightSums {
  float* dw;                // [E, N, K]
  const __nv_bfloat16* dy;  // [R, N]
  const __nv_bfloat16* x;   // [R, K]
  const int32_t* offsets;
  int64_t dw_expert, dw_pitch, dy_pitch, x_pitch, n, k;
  unsigned tiles_n, tiles_k;
};

template <bool kAdds>
__global__ void __launch_bounds__(Tile::kThreads, 2) weights_kernel(WeightSums p) {
  const unsigned expert = blockIdx.x / (p.tiles_n * p.tiles_k);
  const int64_t n = int64_t{blockIdx.x / p.tiles_k % p.tiles_n} * Tile::kM;
  const int64_t k = int64_t{blockIdx.x % p.tiles_k} * Tile::kN;
  const int64_t first = p.offsets[expert];
  const int64_t rows = p.offsets[expert + 1] - first;
  if (kAdds && rows == 0) return;
  const Operand dy{p.dy + first * p.dy_pitch + n, p.dy_pitch, p.n - n};
  const Operand x{p.x + first * p.x_pitch + k, p.x_pitch, p.k - k};
  float sums[64] = {};
  sum_products<Major::kMNMajor, Major::kMNMajor>(sums, dy, x, rows,
                                                 dynamic_shared<unsigned char>());
  store_sums<kAdds>(
      own_rows(p.dw + expert * p.dw_expert + n * p.dw_pitch + k, p.dw_pitch, p.n - n, p.k - k),
      sums);
}

template <class Y>
void launch_rows(Context& ctx, Y* out, View to, ConstView a, ConstView w, ConstView offsets,
                 bool transpose_w) {
  const Rows<Y> p{.out = out,
                  .a = bf16_of(a),
                  .w = bf16_of(w),
                  .offsets = offsets.ptr<int32_t>(),
                  .out_pitch = to.pitch(),
                  .a_pitch = a.pitch(),
                  .w_expert = w.stride(0),
                  .w_pitch = w.stride(1),
                  .inner = a.dim(1),
                  .columns = to.dim(1),
                  .experts = static_cast<int>(w.dim(0)),
                  .column_tiles = tiles_of(to.dim(1), Tile::kN)};
  const int64_t slots = std::min(a.dim(0), a.dim(0) / Tile::kM + p.experts);
  const Grid grid{static_cast<unsigned>(slots * p.column_tiles), Tile::kThreads,
                  Tile::kSharedBytes};
  if (transpose_w)
    launch(ctx, grid, rows_kernel<Y, Major::kKMajor>, p);
  else
    launch(ctx, grid, rows_kernel<Y, Major::kMNMajor>, p);
}

}  // namespace

bool warpgroups_can(Context& ctx, std::initializer_list<ConstView> views) {
  return ctx.cuda().warpgroups && whole_rows(views, 16);
}

void rows_on_warpgroups(Context& ctx, View out, ConstView a, ConstView w, ConstView offsets,
                        bool transpose_w) {
  if (out.dtype() == DType::kF32)
    launch_rows(ctx, out.ptr<float>(), out, a, w, offsets, transpose_w);
  else
    launch_rows(ctx, bf16_of(out), out, a, w, offsets, transpose_w);
}

void weights_on_warpgroups(Context& ctx, View dw, ConstView dy, ConstView x, ConstView offsets,
                           bool accumulate) {
  const WeightSums p{.dw = dw.ptr<float>(),
                     .dy = bf16_of(dy),
                     .x = bf16_of(x),
                     .offsets = offsets.ptr<int32_t>(),
                     .dw_expert = dw.stride(0),
                     .dw_pitch = dw.stride(1),
                     .dy_pitch = dy.pitch(),
                     .x_pitch = x.pitch(),
                     .n = dw.dim(1),
                     .k = dw.dim(2),
                     .tiles_n = tiles_of(dw.dim(1), Tile::kM),
                     .tiles_k = tiles_of(dw.dim(2), Tile::kN)};
  const auto experts = static_cast<unsigned>(dw.dim(0));
  launch(ctx, {experts * p.tiles_n * p.tiles_k, Tile::kThreads, Tile::kSharedBytes},
         accumulate ? weights_kernel<true> : weights_kernel<false>, p);
}

}  // namespace nestling::cuda
