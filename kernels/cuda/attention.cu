// attention.cu - attention forward (Dao 2023, "FlashAttention-2"): one block a query tile and head,
// walking the keys it sees; the scores stay in shared memory.
//
// Tiles         64 queries (16 for f32 heads wider than 128) of one segment, 16 to 64 keys at a time.
//               The table of tiles is made on the host: no tile looks across a segment's edge.
// Arithmetic    f32 operands: FMA throughout. bf16 operands: tensor cores, f32 softmax and sums, the
//               weights rounded to bf16 for the product with the values.
// Elsewhere     bf16 heads of up to 128 channels on a card with warpgroups: attention_warpgroups.cu.
// Limits        heads of at most 256 channels.
#include "kernels/cuda/attention_walk.cuh"
#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/cuda/upload.h"
#include "kernels/ops/attention.h"

namespace nestling::cuda {

namespace {

template <class T>
struct Forward {
  HeadRows<T> y;
  float* lse;
  int64_t lse_row;
  HeadRows<const T> q, k, v;
  const RowTile* tiles;
  int heads, kv_heads, width, window;  // window 0: none
  float scale;
  bool vector;
};

template <class T, int kDim>
struct ForwardShape;
template <int kDim>
struct ForwardShape<float, kDim> {
  using Shape =
      TileShape<float, kDim, kDim <= 128 ? 4 : 1, kDim <= 128 ? 1 : 2, kDim <= 64 ? 32 : 16>;
};
template <int kDim>
struct ForwardShape<__nv_bfloat16, kDim> {
  using Shape = TileShape<__nv_bfloat16, kDim, kDim <= 128 ? 4 : 2, kDim <= 128 ? 1 : 2,
                          kDim <= 128 ? 64 : 32>;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads) forward_kernel(Forward<typename Shape::T> f) {
  using T = typename Shape::T;
  const RowTile tile = f.tiles[blockIdx.x / static_cast<unsigned>(f.heads)];
  const int64_t head = blockIdx.x % static_cast<unsigned>(f.heads);
  const int64_t kv_head = head % f.kv_heads;
  const WalkMemory<Shape> memory;
  const int token = tile.first + Walk<Shape>::row();
  Walk<Shape> walk(memory, f.scale, f.window > 0 ? token - f.window + 1 : tile.begin, token + 1);
  const int64_t query = tile.first - tile.shift;  // the first row's
  load_rows<Shape, Shape::kRows>(memory.queries, f.q.data + query * f.q.row + head * f.q.head,
                                 f.q.row, tile.count, f.width, f.vector);
  const int begin = f.window > 0 ? max(tile.begin, tile.first - f.window + 1) : tile.begin;
  const int end = tile.first + tile.count;
  const T* keys = f.k.data + kv_head * f.k.head;
  const T* values = f.v.data + kv_head * f.v.head;
  for (int first = begin; first < end; first += Shape::kOther)
    walk.add(keys + first * f.k.row, f.k.row, values + first * f.v.row, f.v.row, first,
             min(Shape::kOther, end - first), f.width, f.vector);
  const float lse = walk.finish();
  if (Walk<Shape>::leads_row() && token < end) f.lse[(token - tile.shift) * f.lse_row + head] = lse;
  store_outputs<Shape>(walk.outputs(), dynamic_shared<float>(),
                       f.y.data + query * f.y.row + head * f.y.head, f.y.row, tile.count, f.width);
}

template <class T>
void forward(Context& ctx, const AttentionForward& a) {
  with_padded_width("attention_forward", a.q.dim(2), [&](auto dim) {
    using Shape = typename ForwardShape<T, decltype(dim)::kValue>::Shape;
    const auto tiles = query_tiles(a, Shape::kRows);
    const auto blocks = static_cast<int64_t>(tiles.size()) * a.q.dim(1);
    const Forward<T> f{.y = head_rows<T>(a.y),
                       .lse = a.lse.ptr<float>(),
                       .lse_row = a.lse.stride(0),
                       .q = head_rows<T>(a.q),
                       .k = head_rows<T>(a.k),
                       .v = head_rows<T>(a.v),
                       .tiles = upload(ctx, tiles),
                       .heads = static_cast<int>(a.q.dim(1)),
                       .kv_heads = static_cast<int>(a.k.dim(1)),
                       .width = static_cast<int>(a.q.dim(2)),
                       .window = static_cast<int>(std::min(a.window, a.k.dim(0))),
                       .scale = a.scale,
                       .vector = whole_rows({a.q, a.k, a.v}, 16)};
    launch(ctx,
           {.blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = Shape::kThreads,
            .shared_bytes = WalkMemory<Shape>::kBytes},
           forward_kernel<Shape>, f);
  });
}

}  // namespace

void run(Context& ctx, const AttentionForward& a) {
  const Arena::Mark mark(ctx.scratch());
  if (a.q.dtype() == DType::kBF16 && attention_on_warpgroups(ctx, {a.q, a.k, a.v, a.y}))
    forward_on_warpgroups(ctx, a);
  else if (a.q.dtype() == DType::kBF16)
    forward<__nv_bfloat16>(ctx, a);
  else
    forward<float>(ctx, a);
}

}  // namespace nestling::cuda
