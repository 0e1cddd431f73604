// attention_warpgroups.cu - attention forward on warpgroups (Dao 2023, algorithm 1; Shah et al. 2024,
// "FlashAttention-3", on Hopper): one block a tile of 128 queries and head, walking the keys it sees.
//
// Tiles         128 keys and values at a time: they are copied while those before are read.
// Queries       and weights are left operands in registers, in bf16. The sum of the weights is that of the f32 values.
#include "kernels/cuda/attention_warpgroups.cuh"
#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/cuda/upload.h"

namespace nestling::cuda {

namespace {

using namespace warpgroups;  // NOLINT(google-build-using-namespace)

constexpr int kKeys = 128;
// Not kLowestScore: times a slope above 1 that is infinite, and the weights of a row that has seen no key yet would be
// 2^(-infinity + infinity), NaN.
constexpr float kLowestToScale = -1e30f;

struct Forward {
  HeadRows<__nv_bfloat16> y;
  float* lse;
  int64_t lse_row;
  HeadRows<const __nv_bfloat16> q, k, v;
  const RowTile* tiles;
  int heads, kv_heads, width, window;  // window 0: none
  float scale;
};

template <int kDim>
struct ForwardMemory {
  static constexpr int kTile = kTileBytes<kDim, kKeys>;
  static constexpr int64_t kBytes = kTileBytes<kDim, kRows> + 5 * kTile + kPattern;
  unsigned char* queries;
  unsigned char*
      others;  // two tiles of keys, three of values: those of tile n - 1 are read during n
  __device__ ForwardMemory() {
    queries = patterned(dynamic_shared<unsigned char>());
    others = queries + kTileBytes<kDim, kRows>;
  }
  __device__ unsigned char* keys(int n) const { return others + n % 2 * kTile; }
  __device__ unsigned char* values(int n) const { return others + (2 + n % 3) * kTile; }
};

// The online softmax of a thread's two rows so far, in powers of two of `slope` times the scores.
struct OnlineSoftmax {
  float slope;
  float top[2] = {kLowestToScale, kLowestToScale};
  float sum[2] = {};  // this thread's part

  // Scores become weights; what was summed before is to be multiplied by `factors`.
  __device__ void apply(float (&scores)[kKeys / 2], float (&factors)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = top[h];
#pragma unroll
      for (int e = 2 * h; e < kKeys / 2; e += 4)
        most = fmaxf(most, fmaxf(scores[e], scores[e + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      factors[h] = fast_exp2((top[h] - most) * slope);
      top[h] = most;
      const float shift = -most * slope;
      float part = 0.0f;
#pragma unroll
      for (int e = 2 * h; e < kKeys / 2; e += 4)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scores[e + i] = fast_exp2(fmaf(scores[e + i], slope, shift));
          part += scores[e + i];
        }
      sum[h] = fmaf(sum[h], factors[h], part);
    }
  }
};

// Scores of keys from `first` on that a row does not see become -infinity; its token is `token`, or 8 more.
__device__ void hide(float (&scores)[kKeys / 2], int first, int token, int window) {
#pragma unroll
  for (int e = 0; e < kKeys / 2; ++e) {
    const int query = token + 8 * row_half(e);
    const int key = first + column_of(e);
    if ((key > query) | ((window > 0) & (key <= query - window))) scores[e] = -INFINITY;
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(Forward f) {
  const RowTile tile = f.tiles[blockIdx.x / static_cast<unsigned>(f.heads)];
  const int64_t head = blockIdx.x % static_cast<unsigned>(f.heads);
  const int64_t kv_head = head % f.kv_heads;
  const ForwardMemory<kDim> memory;
  const int begin = f.window > 0 ? max(tile.begin, tile.first - f.window + 1) : tile.begin;
  const int end = tile.first + tile.count;
  const int walks = (end - begin + kKeys - 1) / kKeys;
  const auto copy_keys = [&](int n) {  // none behind the last
    const int64_t first = begin + n * kKeys;
    const int count = static_cast<int>(end - first);
    copy_swizzled<kDim, kKeys>(memory.keys(n), f.k.data + kv_head * f.k.head + first * f.k.row,
                               f.k.row, count, f.width);
    copy_swizzled<kDim, kKeys>(memory.values(n), f.v.data + kv_head * f.v.head + first * f.v.row,
                               f.v.row, count, f.width);
    close_copies();
  };
  const int64_t query = tile.first - tile.shift;  // the first row's
  copy_swizzled<kDim, kRows>(memory.queries, f.q.data + query * f.q.row + head * f.q.head, f.q.row,
                             tile.count, f.width);
  close_copies();
  copy_keys(0);

  const int group_row = group() * kGroupRows;
  const int group_first = tile.first + group_row;
  const int token = group_first + own_row();
  OnlineSoftmax softmax{.slope = f.scale * kLog2E};
  float outputs[kDim / 2] = {};
  uint32_t weights[kKeys / 16][4];
  const auto add_values = [&](int n) {
    begin_products();
    add_weighted(outputs, weights, memory.values(n));
    close_products();
    wait_for_products<0>();
  };
  wait_for_copies<1>();
  __syncthreads();
  uint32_t queries[kDim / 16][4];
  load_fragments<kDim, kRows>(queries, memory.queries, group_row);
  const bool late = group_row > 0;
  for (int n = 0;; ++n) {
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // tile n is there; what the copies below replace has been read by all
    if (late && n > 0) add_values(n - 1);
    if (n == walks) break;
    float scores[kKeys / 2];
    begin_products();
    multiply_rows(scores, queries, memory.keys(n));
    close_products();
    copy_keys(n + 1);
    wait_for_products<0>();
    const int first = begin + n * kKeys;
    if (first + kKeys - 1 > group_first ||
        (f.window > 0 && first <= group_first + kGroupRows - 1 - f.window))
      hide(scores, first, token, f.window);
    float factors[2];
    softmax.apply(scores, factors);
#pragma unroll
    for (int e = 0; e < kDim / 2; ++e) outputs[e] *= factors[row_half(e)];
    fragments_of(scores, weights);
    if (!late) add_values(n);
  }

  float shares[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = warp_sum<4>(softmax.sum[h]);
    shares[h] = 1.0f / sum;
    const int64_t row = token + 8 * h;
    if (row < end && threadIdx.x % 4 == 0)
      f.lse[(row - tile.shift) * f.lse_row + head] = fmaf(softmax.top[h], f.scale, logf(sum));
  }
#pragma unroll
  for (int e = 0; e < kDim / 2; ++e) outputs[e] *= shares[row_half(e)];
  const SumRows<__nv_bfloat16> to{f.y.data + head * f.y.head + (query + group_row) * f.y.row,
                                  f.y.row, end - group_first, f.width};
  store_sums(to, outputs);
}

}  // namespace

bool attention_on_warpgroups(Context& ctx, std::initializer_list<ConstView> heads) {
  return ctx.cuda().warpgroups && heads.begin()->dim(2) <= 128 && whole_rows(heads, 16);
}

void forward_on_warpgroups(Context& ctx, const AttentionForward& a) {
  with_tile_width(a.q.dim(2), [&](auto dim) {
    constexpr int kDim = decltype(dim)::kValue;
    const auto tiles = query_tiles(a, kRows);
    const auto blocks = static_cast<int64_t>(tiles.size()) * a.q.dim(1);
    const Forward f{.y = head_rows<__nv_bfloat16>(a.y),
                    .lse = a.lse.ptr<float>(),
                    .lse_row = a.lse.stride(0),
                    .q = head_rows<__nv_bfloat16>(a.q),
                    .k = head_rows<__nv_bfloat16>(a.k),
                    .v = head_rows<__nv_bfloat16>(a.v),
                    .tiles = upload(ctx, tiles),
                    .heads = static_cast<int>(a.q.dim(1)),
                    .kv_heads = static_cast<int>(a.k.dim(1)),
                    .width = static_cast<int>(a.q.dim(2)),
                    .window = static_cast<int>(std::min(a.window, a.k.dim(0))),
                    .scale = a.scale};
    launch(ctx,
           {.blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = kThreads,
            .shared_bytes = ForwardMemory<kDim>::kBytes},
           forward_kernel<kDim>, f);
  });
}

}  // namespace nestling::cuda
