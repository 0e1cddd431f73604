// attention_backward.cu - attention backward from the saved log-sum-exp (Dao 2023, algorithm 2), as
// three kernels:
//   1. delta = sum_c dy y of every token and head
//   2. dk, dv: one block a key tile and KV head, walking the queries that see it, head by head
//   3. dq: one block a query tile and head, walking the keys it sees
// 2 and 3 are one template: rows that stay, others that are walked, and of both the scores, the
// weights p = e^(s - lse) and ds = p (dp - delta). The scores are computed twice, and in return each
// gradient has one writer and one order of its sum: no atomics, and same inputs give same bits.
//
// Tiles         64 rows (16 for f32 heads wider than 128), 16 or 32 others at a time.
// Arithmetic    as attention.cu; with bf16 operands p and ds are rounded to bf16 for their products.
// Scratch       delta, [T, Q] f32.
// Elsewhere     bf16 heads of up to 128 channels on a card with warpgroups: attention_warpgroups_backward.cu.
// Limits        heads of at most 256 channels.
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/cuda/upload.h"
#include "kernels/ops/attention.h"

namespace nestling::cuda {

namespace {

constexpr int kDeltaThreads = 256;

template <class T>
struct Delta {
  float* delta;  // [T, heads]
  HeadRows<const T> dy, y;
  int64_t items;  // T * heads
  int heads, width;
};

// One warp a token and head.
template <class T>
__global__ void __launch_bounds__(kDeltaThreads) delta_kernel(Delta<T> d) {
  const int64_t item = int64_t{blockIdx.x} * (kDeltaThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= d.items) return;
  const int64_t token = item / d.heads;
  const int64_t head = item % d.heads;
  const T* dy = d.dy.data + token * d.dy.row + head * d.dy.head;
  const T* y = d.y.data + token * d.y.row + head * d.y.head;
  float sum = 0.0f;
  for (int c = threadIdx.x % kWarp; c < d.width; c += kWarp) sum += load(dy + c) * load(y + c);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) d.delta[item] = sum;
}

template <class T>
struct Backward {
  HeadRows<T> dq, dk, dv;
  HeadRows<const T> q, k, v, dy;
  const float* lse;
  int64_t lse_row;
  const float* delta;
  const RowTile* tiles;
  int heads, kv_heads, width, window;  // window 0: none
  float scale;
  bool vector;
};

template <class T, int kDim>
struct BackwardShape;
template <int kDim>
struct BackwardShape<float, kDim> {
  using Shape =
      TileShape<float, kDim, kDim <= 128 ? 4 : 1, kDim <= 128 ? 1 : 2, kDim <= 64 ? 32 : 16>;
};
template <int kDim>
struct BackwardShape<__nv_bfloat16, kDim> {
  using Shape = TileShape<__nv_bfloat16, kDim, kDim <= 128 ? 4 : 2, kDim <= 128 ? 1 : 2, 32>;
};

// Rows are queries and dy, others keys and values; or with kKeys the other way round.
template <class Shape>
struct BackwardMemory {
  using T = typename Shape::T;
  static constexpr bool kApart = sizeof(T) != sizeof(float);  // weights do not lie over scores
  static constexpr int kStats = Shape::kRows > Shape::kOther ? Shape::kRows : Shape::kOther;
  static constexpr int64_t kBytes =
      2 * int64_t{sizeof(T)} * Shape::kLd * (Shape::kRows + Shape::kOther) +
      2 * int64_t{sizeof(float)} * Shape::kRows * Shape::kScoreLd +
      (kApart ? 2 * int64_t{sizeof(T)} * Shape::kRows * Shape::kWeightLd : 0) +
      2 * int64_t{sizeof(float)} * kStats;
  static_assert(kBytes >= int64_t{sizeof(float)} * Shape::kRows * Shape::kStageLd);

  T* rows[2];        // [kRows, kLd]: q and dy, or k and v
  T* others[2];      // [kOther, kLd]: k and v, or q and dy
  float* scores[2];  // [kRows, kScoreLd]: s and dp
  T* weights[2];     // [kRows, kWeightLd]: p and ds
  float* lse;        // of the queries
  float* delta;

  __device__ BackwardMemory() {
    T* at = dynamic_shared<T>();
    for (int i = 0; i < 2; ++i, at += Shape::kRows * Shape::kLd) rows[i] = at;
    for (int i = 0; i < 2; ++i, at += Shape::kOther * Shape::kLd) others[i] = at;
    auto* behind = reinterpret_cast<float*>(at);
    for (int i = 0; i < 2; ++i, behind += Shape::kRows * Shape::kScoreLd) {
      scores[i] = behind;
      weights[i] = reinterpret_cast<T*>(behind);
    }
    if constexpr (kApart) {
      at = reinterpret_cast<T*>(behind);
      for (int i = 0; i < 2; ++i, at += Shape::kRows * Shape::kWeightLd) weights[i] = at;
      behind = reinterpret_cast<float*>(at);
    }
    lse = behind;
    delta = lse + kStats;
  }
};

// lse and delta of queries first .. first + count - 1 of a head.
template <class Shape, class T>
__device__ void load_stats(const BackwardMemory<Shape>& m, const Backward<T>& b, int64_t first,
                           int count, int64_t head) {
  for (int i = threadIdx.x; i < count; i += Shape::kThreads) {
    m.lse[i] = b.lse[(first + i) * b.lse_row + head];
    m.delta[i] = b.delta[(first + i) * b.heads + head];
  }
}

// Two operands, count rows from `first` of one head.
template <class Shape, int kRows, class T>
__device__ void load_pair(T* const (&to)[2], const HeadRows<const T>& a, const HeadRows<const T>& b,
                          int64_t first, int64_t head, int count, const Backward<T>& args) {
  load_rows<Shape, kRows>(to[0], a.data + first * a.row + head * a.head, a.row, count, args.width,
                          args.vector);
  load_rows<Shape, kRows>(to[1], b.data + first * b.row + head * b.head, b.row, count, args.width,
                          args.vector);
}

// From s and dp in shared memory, p and ds. Row r is token row_token + r, column c other_token + c,
// of which there are `count`.
template <class Shape, bool kKeys, class T>
__device__ void softmax_backward(const BackwardMemory<Shape>& m, const Backward<T>& b,
                                 int row_token, int other_token, int count) {
#pragma unroll 4
  for (int i = Shape::row_thread(); i < kTileRows * Shape::kOther; i += Shape::kRowThreads) {
    const int r = Shape::first_row() + i / Shape::kOther;
    const int c = i % Shape::kOther;
    const int query = kKeys ? other_token + c : row_token + r;
    const int key = kKeys ? row_token + r : other_token + c;
    const bool visible = c < count && key <= query && (b.window == 0 || key > query - b.window);
    float p = 0.0f;
    float ds = 0.0f;
    if (visible) {
      const int at = kKeys ? c : r;
      p = expf(m.scores[0][r * Shape::kScoreLd + c] * b.scale - m.lse[at]);
      ds = p * (m.scores[1][r * Shape::kScoreLd + c] - m.delta[at]);
    }
    store(m.weights[0] + r * Shape::kWeightLd + c, p);
    store(m.weights[1] + r * Shape::kWeightLd + c, ds);
  }
}

// `sums`: ds times others[0] (dq or dk); with kKeys also p times others[1] (dv).
template <class Shape>
struct Sums {
  typename Shape::Outputs of_scores;
  typename Shape::Outputs of_values;
};

template <class Shape, bool kKeys, class T>
__device__ void add_others(Sums<Shape>& sums, const BackwardMemory<Shape>& m, const Backward<T>& b,
                           int row_token, int other_token, int count) {
  const int column = Shape::column_warp() * Shape::kWarpScores;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    typename Shape::Scores scores;
    scores.clear();
    scores.template add_nt<Shape::kDim>(m.rows[i] + Shape::first_row() * Shape::kLd, Shape::kLd,
                                        m.others[i] + column * Shape::kLd, Shape::kLd);
    scores.store(m.scores[i] + Shape::first_row() * Shape::kScoreLd + column, Shape::kScoreLd);
  }
  Shape::sync_rows();
  softmax_backward<Shape, kKeys>(m, b, row_token, other_token, count);
  Shape::sync_rows();
  const int weight = Shape::first_row() * Shape::kWeightLd;
  const int channel = Shape::column_warp() * Shape::kWarpDim;
  sums.of_scores.template add_nn<Shape::kOther>(m.weights[1] + weight, Shape::kWeightLd,
                                                m.others[0] + channel, Shape::kLd);
  if constexpr (kKeys)
    sums.of_values.template add_nn<Shape::kOther>(m.weights[0] + weight, Shape::kWeightLd,
                                                  m.others[1] + channel, Shape::kLd);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads) key_kernel(Backward<typename Shape::T> b) {
  const RowTile tile = b.tiles[blockIdx.x / static_cast<unsigned>(b.kv_heads)];
  const int64_t kv_head = blockIdx.x % static_cast<unsigned>(b.kv_heads);
  const BackwardMemory<Shape> memory;
  load_pair<Shape, Shape::kRows>(memory.rows, b.k, b.v, tile.first, kv_head, tile.count, b);
  Sums<Shape> sums;
  sums.of_scores.clear();
  sums.of_values.clear();
  const int last = tile.first + tile.count - 1;
  const int end = b.window > 0 ? min(tile.end, last + b.window) : tile.end;
  for (int64_t head = kv_head; head < b.heads; head += b.kv_heads)
    for (int first = tile.first; first < end; first += Shape::kOther) {
      const int count = min(Shape::kOther, end - first);
      __syncthreads();  // the queries before have been read
      load_pair<Shape, Shape::kOther>(memory.others, b.q, b.dy, first, head, count, b);
      load_stats(memory, b, first, count, head);
      __syncthreads();
      add_others<Shape, true>(sums, memory, b, tile.first, first, count);
    }
  sums.of_scores.scale(b.scale);
  auto* stage = dynamic_shared<float>();
  store_outputs<Shape>(sums.of_scores, stage,
                       b.dk.data + tile.first * b.dk.row + kv_head * b.dk.head, b.dk.row,
                       tile.count, b.width);
  store_outputs<Shape>(sums.of_values, stage,
                       b.dv.data + tile.first * b.dv.row + kv_head * b.dv.head, b.dv.row,
                       tile.count, b.width);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads) query_kernel(Backward<typename Shape::T> b) {
  const RowTile tile = b.tiles[blockIdx.x / static_cast<unsigned>(b.heads)];
  const int64_t head = blockIdx.x % static_cast<unsigned>(b.heads);
  const int64_t kv_head = head % b.kv_heads;
  const BackwardMemory<Shape> memory;
  load_pair<Shape, Shape::kRows>(memory.rows, b.q, b.dy, tile.first, head, tile.count, b);
  load_stats(memory, b, tile.first, tile.count, head);
  Sums<Shape> sums;
  sums.of_scores.clear();
  const int begin = b.window > 0 ? max(tile.begin, tile.first - b.window + 1) : tile.begin;
  const int end = tile.first + tile.count;
  for (int first = begin; first < end; first += Shape::kOther) {
    const int count = min(Shape::kOther, end - first);
    __syncthreads();  // the keys before have been read
    load_pair<Shape, Shape::kOther>(memory.others, b.k, b.v, first, kv_head, count, b);
    __syncthreads();
    add_others<Shape, false>(sums, memory, b, tile.first, first, count);
  }
  sums.of_scores.scale(b.scale);
  store_outputs<Shape>(sums.of_scores, dynamic_shared<float>(),
                       b.dq.data + tile.first * b.dq.row + head * b.dq.head, b.dq.row, tile.count,
                       b.width);
}

template <class T>
float* compute_delta(Context& ctx, const AttentionBackward& a) {
  const int64_t items = a.q.dim(0) * a.q.dim(1);
  float* delta = ctx.scratch().floats(items);
  constexpr int64_t kWarps = kDeltaThreads / kWarp;
  launch(ctx, {dim3(static_cast<unsigned>((items + kWarps - 1) / kWarps)), kDeltaThreads},
         delta_kernel<T>,
         Delta<T>{.delta = delta,
                  .dy = head_rows<T>(a.dy),
                  .y = head_rows<T>(a.y),
                  .items = items,
                  .heads = static_cast<int>(a.q.dim(1)),
                  .width = static_cast<int>(a.q.dim(2))});
  return delta;
}

template <class T>
void backward(Context& ctx, const AttentionBackward& a) {
  Backward<T> b{.dq = head_rows<T>(a.dq),
                .dk = head_rows<T>(a.dk),
                .dv = head_rows<T>(a.dv),
                .q = head_rows<T>(a.q),
                .k = head_rows<T>(a.k),
                .v = head_rows<T>(a.v),
                .dy = head_rows<T>(a.dy),
                .lse = a.lse.ptr<float>(),
                .lse_row = a.lse.stride(0),
                .delta = compute_delta<T>(ctx, a),
                .tiles = nullptr,
                .heads = static_cast<int>(a.q.dim(1)),
                .kv_heads = static_cast<int>(a.k.dim(1)),
                .width = static_cast<int>(a.q.dim(2)),
                .window = static_cast<int>(std::min(a.window, a.segments.tokens())),
                .scale = a.scale,
                .vector = whole_rows({a.q, a.k, a.v, a.dy}, 16)};
  with_padded_width("attention_backward", a.q.dim(2), [&](auto dim) {
    using Shape = typename BackwardShape<T, decltype(dim)::kValue>::Shape;
    const auto go = [&](bool keys, int64_t heads, void (*kernel)(Backward<T>)) {
      const auto tiles = row_tiles(a.segments, Shape::kRows, a.window, keys);
      b.tiles = upload(ctx, tiles);
      const int64_t blocks = static_cast<int64_t>(tiles.size()) * heads;
      launch(ctx,
             {.blocks = dim3(static_cast<unsigned>(blocks)),
              .threads = Shape::kThreads,
              .shared_bytes = BackwardMemory<Shape>::kBytes},
             kernel, b);
    };
    go(true, b.kv_heads, key_kernel<Shape>);
    go(false, b.heads, query_kernel<Shape>);
  });
}

}  // namespace

void run(Context& ctx, const AttentionBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  if (a.q.dtype() == DType::kBF16 &&
      attention_on_warpgroups(ctx, {a.q, a.k, a.v, a.y, a.dy, a.dq, a.dk, a.dv}))
    backward_on_warpgroups(ctx, a);
  else if (a.q.dtype() == DType::kBF16)
    backward<__nv_bfloat16>(ctx, a);
  else
    backward<float>(ctx, a);
}

}  // namespace nestling::cuda
