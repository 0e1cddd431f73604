// attention_warpgroups_backward.cu - attention backward on warpgroups, from the saved log-sum-exp (Dao 2023,
// algorithm 2), in the passes of attention_backward.cu:
//   1. stats: of every head and token, lse in powers of two and delta = sum_c dy y
//   2. dk, dv: one block a tile of 128 keys, KV head and part of its query heads, walking the queries that see it
//   3. dq: one block a tile of 128 queries and head, walking the keys it sees
// The scores are computed twice, and in return each sum has one owner and one order: no atomics, same bits.
//
// Tiles         64 of the rows that are walked at a time: they are copied while those before are read.
// Registers     p and ds stay there and are left operands of their products, in bf16; so are the tile's queries and
//               dy in pass 3. Pass 2 has none left for its keys and values.
// Parts         short sequences have too few tiles of keys for a card: several blocks share a KV head's query heads,
//               and their f32 sums are added in order.
// Scratch       stats, 8 bytes a token and query head; parts x 8 bytes x kDim a token and KV head.
#include "kernels/cuda/attention_warpgroups.cuh"
#include "kernels/cuda/attention_warpgroups.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/upload.h"

namespace nestling::cuda {

namespace {

using namespace warpgroups;  // NOLINT(google-build-using-namespace)
using Half = __nv_bfloat16;

constexpr int kOther = 64;  // rows that are walked, of a tile

struct Backward {
  HeadRows<Half> dq, dk, dv;
  HeadRows<const Half> q, k, v, dy;
  const float2* stats;  // [Q, T]
  float* sums;          // [parts, 2, T, K, kDim] where there are several parts
  const RowTile* tiles;
  int64_t tokens;
  int heads, kv_heads, parts, part_slots, width, window;  // window 0: none
  float scale;
};

struct Stats {
  float2* stats;  // [Q, T]
  HeadRows<const Half> dy, y;
  const float* lse;
  int64_t lse_row, tokens;
  int heads, pieces;  // of 8 channels
};

// Eight lanes a token and head, four tokens a warp.
__global__ void __launch_bounds__(kThreads) stats_kernel(Stats s) {
  const int64_t warp = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t head = warp % s.heads;
  const int64_t token = warp / s.heads * 4 + threadIdx.x % kWarp / 8;
  const bool exists = token < s.tokens;
  float delta = 0.0f;
  if (exists)
    for (int piece = threadIdx.x % 8; piece < s.pieces; piece += 8) {
      const Half* dy = s.dy.data + token * s.dy.row + head * s.dy.head + 8 * piece;
      const Half* y = s.y.data + token * s.y.row + head * s.y.head + 8 * piece;
#pragma unroll
      for (int half = 0; half < 8; half += 4) {
        const auto a = load_pack<4>(dy + half);
        const auto b = load_pack<4>(y + half);
#pragma unroll
        for (int i = 0; i < 4; ++i) delta = fmaf(a.v[i], b.v[i], delta);
      }
    }
  delta = warp_sum<8>(delta);
  if (exists && threadIdx.x % 8 == 0)
    s.stats[head * s.tokens + token] = make_float2(s.lse[token * s.lse_row + head] * kLog2E, delta);
}

// Rows are keys and values, others queries and dy; or the other way round.
template <int kDim>
struct Memory {
  static constexpr int kRowsTile = kTileBytes<kDim, kRows>;
  static constexpr int kOtherTile = kTileBytes<kDim, kOther>;
  static constexpr int64_t kBytes =
      2 * kRowsTile + 6 * kOtherTile + 2 * kThreads * int64_t{sizeof(float2)} + kPattern;
  unsigned char* at;
  __device__ Memory() : at(patterned(dynamic_shared<unsigned char>())) {}
  __device__ unsigned char* rows(int i) const { return at + i * kRowsTile; }
  __device__ unsigned char* others(int i, int n) const {
    return at + 2 * kRowsTile + (n % 3 * 2 + i) * kOtherTile;  // tile n - 1 is read during n
  }
  __device__ float2* stats(int n) const {  // a slot a thread: no branch in the loop
    return reinterpret_cast<float2*>(at + 2 * kRowsTile + 6 * kOtherTile) + n % 2 * kThreads;
  }
};

// Two tiles of the same rows.
template <int kDim, int kTileRows>
__device__ void copy_pair(unsigned char* a_to, const HeadRows<const Half>& a, int64_t a_head,
                          unsigned char* b_to, const HeadRows<const Half>& b, int64_t b_head,
                          int64_t first, int rows, int width) {
  copy_swizzled<kDim, kTileRows>(a_to, a.data + a_head * a.head + first * a.row, a.row, rows,
                                 width);
  copy_swizzled<kDim, kTileRows>(b_to, b.data + b_head * b.head + first * b.row, b.row, rows,
                                 width);
}

// What a query sees: keys up to itself, the last `window` of them where there is a window.
struct Sight {
  int window;
  __device__ bool sees(int query, int key) const {
    return (key <= query) & ((window == 0) | (key > query - window));  // no branch an element
  }
  // Whether all of these queries see all of these keys.
  __device__ bool all(int query, int last_query, int key, int last_key) const {
    return last_key <= query && (window == 0 || key > last_query - window);
  }
};

// Scores of pairs that are hidden become -infinity.
template <class Hidden>
__device__ void hide(float (&scores)[kOther / 2], const Hidden& hidden) {
#pragma unroll
  for (int e = 0; e < kOther / 2; ++e)
    if (hidden(e)) scores[e] = -INFINITY;
}

// Of this thread's pairs: scores and dp become p = 2^(slope s - lse) and ds = p (dp - delta).
template <class StatsOf>
__device__ void softmax_backward(float (&scores)[kOther / 2], float (&dp)[kOther / 2], float slope,
                                 const StatsOf& stats_of) {
#pragma unroll
  for (int e = 0; e < kOther / 2; ++e) {
    const float2 stats = stats_of(e);
    scores[e] = fast_exp2(fmaf(scores[e], slope, -stats.x));
    dp[e] = scores[e] * (dp[e] - stats.y);
  }
}

// The walk of a tile of keys: 64 queries of one head after another.
struct Cursor {
  int slot, first;
  __device__ void advance(int begin, int end) {
    first += kOther;
    if (first < end) return;
    first = begin;
    ++slot;
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) key_kernel(Backward b) {
  const RowTile tile = b.tiles[blockIdx.z];
  const int64_t kv_head = blockIdx.y;
  const auto part = static_cast<int>(blockIdx.x);
  const int end = b.window > 0 ? min(tile.end, tile.first + tile.count - 1 + b.window) : tile.end;
  const int walks = b.part_slots * ((end - tile.first + kOther - 1) / kOther);
  const Memory<kDim> memory;
  const auto copy_queries = [&](const Cursor& at, int n) {  // none behind the last
    const int64_t head = at.slot * int64_t{b.kv_heads} + kv_head;
    const int count = n < walks ? tile.end - at.first : 0;
    copy_pair<kDim, kOther>(memory.others(0, n), b.q, head, memory.others(1, n), b.dy, head,
                            at.first, count, b.width);
    close_copies();
    // Read by all, without a branch: the loop below stays one that all lanes are known to take alike.
    const int row = static_cast<int>(threadIdx.x) % kOther;
    const int64_t place = n < walks ? head * b.tokens + min(at.first + row, tile.end - 1) : 0;
    const float2 read = b.stats[place];
    return make_float2(row < count ? read.x : INFINITY,
                       row < count ? read.y : 0.0f);  // none: p is 0
  };
  Cursor at{part * b.part_slots, tile.first};
  copy_pair<kDim, kRows>(memory.rows(0), b.k, kv_head, memory.rows(1), b.v, kv_head, tile.first,
                         tile.count, b.width);
  float2 stats = copy_queries(at, 0);
  memory.stats(0)[threadIdx.x] = stats;

  const Sight sight{b.window};
  const int group_row = group() * kGroupRows;
  const int first_key = tile.first + group_row;
  const int last_key = first_key + kGroupRows - 1;
  float dk[kDim / 2] = {};
  float dv[kDim / 2] = {};
  uint32_t p[kOther / 16][4];
  uint32_t ds[kOther / 16][4];
  const auto add_queries = [&](int n) {
    begin_products();
    add_weighted(dv, p, memory.others(1, n));
    add_weighted(dk, ds, memory.others(0, n));
    close_products();
    wait_for_products<0>();
  };
  const bool late = group_row > 0;
  for (int n = 0;; ++n) {
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // tile n is there; what the copies below replace has been read by all
    if (late && n > 0) add_queries(n - 1);
    if (n == walks) break;
    const int query = at.first;
    float scores[kOther / 2];
    float dp[kOther / 2];
    begin_products();
    multiply_rows<kDim, kRows>(scores, memory.rows(0), group_row, memory.others(0, n));
    multiply_rows<kDim, kRows>(dp, memory.rows(1), group_row, memory.others(1, n));
    close_products();
    at.advance(tile.first, end);
    stats = copy_queries(at, n + 1);
    wait_for_products<0>();
    const float2* of_queries = memory.stats(n);
    if (!sight.all(query, query + kOther - 1, first_key, last_key))
      hide(scores, [&](int e) {
        return !sight.sees(query + column_of(e), first_key + own_row() + 8 * row_half(e));
      });
    softmax_backward(scores, dp, b.scale * kLog2E, [&](int e) { return of_queries[column_of(e)]; });
    fragments_of(scores, p);
    fragments_of(dp, ds);
    if (!late) add_queries(n);
    memory.stats(n + 1)[threadIdx.x] = stats;
  }

  const int keys = tile.first + tile.count - first_key;
  const auto put = [&](const float(&sums)[kDim / 2], int which, const HeadRows<Half>& out) {
    const int64_t row = ((part * 2 + which) * b.tokens + first_key) * b.kv_heads + kv_head;
    if (b.sums == nullptr)
      store_sums(SumRows<Half>{out.data + first_key * out.row + kv_head * out.head, out.row, keys,
                               b.width},
                 sums);
    else
      store_sums(SumRows<float>{b.sums + row * kDim, int64_t{b.kv_heads} * kDim, keys, kDim}, sums);
  };
#pragma unroll
  for (int e = 0; e < kDim / 2; ++e) dk[e] *= b.scale;
  put(dk, 0, b.dk);
  put(dv, 1, b.dv);
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1) query_kernel(Backward b) {
  const RowTile tile = b.tiles[blockIdx.x / static_cast<unsigned>(b.heads)];
  const int64_t head = blockIdx.x % static_cast<unsigned>(b.heads);
  const int64_t kv_head = head % b.kv_heads;
  const int begin = b.window > 0 ? max(tile.begin, tile.first - b.window + 1) : tile.begin;
  const int end = tile.first + tile.count;
  const int walks = (end - begin + kOther - 1) / kOther;
  const Memory<kDim> memory;
  const auto copy_keys = [&](int n) {  // none behind the last
    const int first = begin + n * kOther;
    copy_pair<kDim, kOther>(memory.others(0, n), b.k, kv_head, memory.others(1, n), b.v, kv_head,
                            first, end - first, b.width);
    close_copies();
  };
  copy_pair<kDim, kRows>(memory.rows(0), b.q, head, memory.rows(1), b.dy, head, tile.first,
                         tile.count, b.width);
  close_copies();
  copy_keys(0);

  const Sight sight{b.window};
  const int group_row = group() * kGroupRows;
  const int first_query = tile.first + group_row;
  const int last_query = first_query + kGroupRows - 1;
  const int query = first_query + own_row();
  float2 stats[2];
#pragma unroll
  for (int h = 0; h < 2; ++h)
    stats[h] = query + 8 * h < end ? b.stats[head * b.tokens + query + 8 * h]
                                   : make_float2(INFINITY, 0.0f);
  float dq[kDim / 2] = {};
  uint32_t ds[kOther / 16][4];
  const auto add_keys = [&](int n) {
    begin_products();
    add_weighted(dq, ds, memory.others(0, n));
    close_products();
    wait_for_products<0>();
  };
  wait_for_copies<1>();
  __syncthreads();
  uint32_t queries[kDim / 16][4];
  uint32_t dy[kDim / 16][4];
  load_fragments<kDim, kRows>(queries, memory.rows(0), group_row);
  load_fragments<kDim, kRows>(dy, memory.rows(1), group_row);
  const bool late = group_row > 0;
  for (int n = 0;; ++n) {
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // tile n is there; what the copies below replace has been read by all
    if (late && n > 0) add_keys(n - 1);
    if (n == walks) break;
    float scores[kOther / 2];
    float dp[kOther / 2];
    begin_products();
    multiply_rows(scores, queries, memory.others(0, n));
    multiply_rows(dp, dy, memory.others(1, n));
    close_products();
    copy_keys(n + 1);
    wait_for_products<0>();
    const int key = begin + n * kOther;
    if (!sight.all(first_query, last_query, key, key + kOther - 1))
      hide(scores, [&](int e) { return !sight.sees(query + 8 * row_half(e), key + column_of(e)); });
    softmax_backward(scores, dp, b.scale * kLog2E, [&](int e) { return stats[row_half(e)]; });
    fragments_of(dp, ds);
    if (!late) add_keys(n);
  }
#pragma unroll
  for (int e = 0; e < kDim / 2; ++e) dq[e] *= b.scale;
  store_sums(SumRows<Half>{b.dq.data + first_query * b.dq.row + head * b.dq.head, b.dq.row,
                           end - first_query, b.width},
             dq);
}

// dk and dv from their parts, in order; four channels a thread.
template <int kDim>
__global__ void __launch_bounds__(kThreads) sum_kernel(Backward b) {
  const int64_t rows = b.tokens * b.kv_heads;
  for (int64_t i = first_item(); i < 2 * rows * (kDim / 4); i += item_step()) {
    const int channel = static_cast<int>(i % (kDim / 4)) * 4;
    const int64_t row = i / (kDim / 4);
    if (channel >= b.width) continue;
    Pack<4> sum = load_pack<4>(b.sums + row * kDim + channel);
    for (int part = 1; part < b.parts; ++part) {
      const Pack<4> more = load_pack<4>(b.sums + (part * 2 * rows + row) * kDim + channel);
#pragma unroll
      for (int c = 0; c < 4; ++c) sum.v[c] += more.v[c];
    }
    const HeadRows<Half>& out = row < rows ? b.dk : b.dv;
    const int64_t place = row < rows ? row : row - rows;
    store_pack<4>(out.data + place / b.kv_heads * out.row + place % b.kv_heads * out.head + channel,
                  sum);
  }
}

float2* make_stats(Context& ctx, const AttentionBackward& a) {
  const int64_t tokens = a.q.dim(0);
  const int64_t heads = a.q.dim(1);
  auto* stats = reinterpret_cast<float2*>(ctx.scratch().floats(2 * tokens * heads));
  const int64_t warps = (tokens + 3) / 4 * heads;
  constexpr int64_t kWarps = kThreads / kWarp;
  launch(ctx, {dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)), kThreads}, stats_kernel,
         Stats{.stats = stats,
               .dy = head_rows<Half>(a.dy),
               .y = head_rows<Half>(a.y),
               .lse = a.lse.ptr<float>(),
               .lse_row = a.lse.stride(0),
               .tokens = tokens,
               .heads = static_cast<int>(heads),
               .pieces = static_cast<int>(a.q.dim(2) / 8)});
  return stats;
}

template <int kDim>
void backward(Context& ctx, Backward b, const Segments& segments) {
  const auto go = [&](bool keys, void (*kernel)(Backward)) {
    const auto tiles = row_tiles(segments, kRows, b.window, keys);
    b.tiles = upload(ctx, tiles);
    launch(
        ctx,
        {.blocks = keys ? dim3(static_cast<unsigned>(b.parts), static_cast<unsigned>(b.kv_heads),
                               static_cast<unsigned>(tiles.size()))
                        : dim3(static_cast<unsigned>(static_cast<int64_t>(tiles.size()) * b.heads)),
         .threads = kThreads,
         .shared_bytes = Memory<kDim>::kBytes},
        kernel, b);
  };
  const int64_t rows = b.tokens * b.kv_heads;
  if (b.parts > 1) b.sums = ctx.scratch().floats(b.parts * 2 * rows * kDim);
  go(true, key_kernel<kDim>);
  if (b.parts > 1)
    launch(ctx, {blocks_for(2 * rows * (kDim / 4), kThreads), kThreads}, sum_kernel<kDim>, b);
  go(false, query_kernel<kDim>);
}

// As many equal parts as make so many blocks, where there are query heads enough. A rehearsal takes the fewest tiles
// that its tokens can lie in: fewer tiles, more parts, more scratch.
int parts_of(const Context& ctx, const AttentionBackward& a, int64_t blocks) {
  int64_t tiles = 0;
  for (int64_t s = 0; s < a.segments.count(); ++s)
    tiles += (a.segments.length(s) + kRows - 1) / kRows;
  if (ctx.device() == Device::kNull) tiles = (a.segments.tokens() + kRows - 1) / kRows;
  const int64_t slots = a.q.dim(1) / a.k.dim(1);
  int64_t parts = 1;
  while (parts < slots && (parts * a.k.dim(1) * tiles < blocks || slots % parts != 0)) ++parts;
  return static_cast<int>(parts);
}

}  // namespace

void backward_on_warpgroups(Context& ctx, const AttentionBackward& a, int64_t blocks) {
  const int parts = parts_of(ctx, a, blocks);
  const Backward b{.dq = head_rows<Half>(a.dq),
                   .dk = head_rows<Half>(a.dk),
                   .dv = head_rows<Half>(a.dv),
                   .q = head_rows<Half>(a.q),
                   .k = head_rows<Half>(a.k),
                   .v = head_rows<Half>(a.v),
                   .dy = head_rows<Half>(a.dy),
                   .stats = make_stats(ctx, a),
                   .sums = nullptr,
                   .tiles = nullptr,
                   .tokens = a.q.dim(0),
                   .heads = static_cast<int>(a.q.dim(1)),
                   .kv_heads = static_cast<int>(a.k.dim(1)),
                   .parts = parts,
                   .part_slots = static_cast<int>(a.q.dim(1) / a.k.dim(1)) / parts,
                   .width = static_cast<int>(a.q.dim(2)),
                   .window = static_cast<int>(std::min(a.window, a.segments.tokens())),
                   .scale = a.scale};
  with_tile_width(a.q.dim(2),
                  [&](auto dim) { backward<decltype(dim)::kValue>(ctx, b, a.segments); });
}

}  // namespace nestling::cuda
