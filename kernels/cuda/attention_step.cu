// attention_step.cu - one token a sequence against its cache, split over keys ("flash-decoding"): one
// block a part of a cache and KV head, then one a sequence and query head that joins the parts in
// their order. Before them the new keys and values go to their rows.
//
// Parts         of a sequence's own length alone: 64 keys, or more where that would be more than 64
//               parts, at most 512. So a sequence gets the same bits in every batch.
// Rows          of a tile are the query heads that share a KV head, 16 to a block: a cache is read once.
// Scratch       [parts, Q, h + 1] f32.
// Limits        heads of at most 256 channels.
#include "kernels/cuda/attention_walk.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/attention.h"

namespace nestling::cuda {

namespace {

constexpr int kJoinThreads = 128;

// Keys [begin, end) of a sequence.
struct Part {
  int32_t sequence, begin, end;
};

template <class T>
struct Step {
  float* y;    // [parts, heads, width]
  float* lse;  // [parts, heads]
  HeadRows<const T> q;
  const T* k;
  const T* v;
  int64_t k_sequence, k_row, v_sequence, v_row;
  const Part* parts;
  int heads, kv_heads, width, groups;  // groups: of 16 query heads of a KV head
  float scale;
  bool vector;
};

template <class T, int kDim>
struct StepShape;
template <int kDim>
struct StepShape<float, kDim> {
  using Shape = TileShape<float, kDim, 1, 4, 32>;
};
template <int kDim>
struct StepShape<__nv_bfloat16, kDim> {
  using Shape = TileShape<__nv_bfloat16, kDim, 1, kDim <= 32 ? 2 : 4, 64>;
};

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads) step_kernel(Step<typename Shape::T> s) {
  using T = typename Shape::T;
  const Part part = s.parts[blockIdx.x];
  const int64_t kv_head = blockIdx.y / static_cast<unsigned>(s.groups);
  const int group = static_cast<int>(blockIdx.y) % s.groups;
  const int64_t first_head = kv_head + int64_t{group} * Shape::kRows * s.kv_heads;
  const int heads = min(Shape::kRows, s.heads / s.kv_heads - group * Shape::kRows);
  const WalkMemory<Shape> memory;
  Walk<Shape> walk(memory, s.scale, part.begin, part.end);
  load_rows<Shape, Shape::kRows>(memory.queries,
                                 s.q.data + part.sequence * s.q.row + first_head * s.q.head,
                                 s.kv_heads * s.q.head, heads, s.width, s.vector);
  const T* keys = s.k + part.sequence * s.k_sequence + kv_head * s.width;
  const T* values = s.v + part.sequence * s.v_sequence + kv_head * s.width;
  for (int first = part.begin; first < part.end; first += Shape::kOther)
    walk.add(keys + first * s.k_row, s.k_row, values + first * s.v_row, s.v_row, first,
             min(Shape::kOther, part.end - first), s.width, s.vector);
  const float lse = walk.finish();
  const int64_t first = int64_t{blockIdx.x} * s.heads + first_head;
  const int row = Walk<Shape>::row();
  if (Walk<Shape>::leads_row() && row < heads) s.lse[first + int64_t{row} * s.kv_heads] = lse;
  store_outputs<Shape>(walk.outputs(), dynamic_shared<float>(), s.y + first * s.width,
                       int64_t{s.kv_heads} * s.width, heads, s.width);
}

template <class T>
struct Append {
  T* to;  // [sequences, capacity, width]
  const T* from;
  int64_t to_sequence, to_row, from_row;
};
// One block a sequence: keys and values.
template <class T>
__global__ void __launch_bounds__(kJoinThreads)
    append_kernel(Append<T> k, Append<T> v, const Part* parts, const int32_t* first_part,
                  int width) {
  const int64_t sequence = blockIdx.x;
  const int64_t row = parts[first_part[sequence + 1] - 1].end - 1;
  for (const Append<T>& a : {k, v})
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kJoinThreads)
      a.to[sequence * a.to_sequence + row * a.to_row + c] = a.from[sequence * a.from_row + c];
}
template <class T>
Append<T> append(View cache, ConstView rows) {
  return {.to = elements<T>(cache),
          .from = elements<T>(rows),
          .to_sequence = cache.stride(0),
          .to_row = cache.stride(1),
          .from_row = rows.stride(0)};
}

template <class T>
struct Join {
  HeadRows<T> to;
  const float* y;             // [parts, heads, width]
  const float* lse;           // [parts, heads]
  const int32_t* first_part;  // [sequences + 1]
  int heads, width;
};

// The weighted sum of the parts of a sequence: the weight of a part is its share of the sum of exponentials.
template <class T>
__global__ void __launch_bounds__(kJoinThreads) join_kernel(Join<T> j) {
  const int64_t sequence = blockIdx.x / static_cast<unsigned>(j.heads);
  const int64_t head = blockIdx.x % static_cast<unsigned>(j.heads);
  const int begin = j.first_part[sequence];
  const int end = j.first_part[sequence + 1];
  float top = kLowestScore;
  for (int64_t p = begin; p < end; ++p) top = fmaxf(top, j.lse[p * j.heads + head]);
  T* to = j.to.data + sequence * j.to.row + head * j.to.head;
  for (int c = threadIdx.x; c < j.width; c += kJoinThreads) {
    float total = 0.0f;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t p = begin; p < end; ++p) {
      const float weight = expf(j.lse[p * j.heads + head] - top);
      total += weight;
      sum += weight * j.y[(p * j.heads + head) * j.width + c];
    }
    store(to + c, sum / total);
  }
}

struct Parts {
  std::vector<Part> parts;
  std::vector<int32_t> first_part;  // of each sequence, and the end
};
Parts split(std::span<const int32_t> lengths, int64_t window) {
  constexpr int64_t kLeast = 64;
  constexpr int64_t kMost = 512;
  Parts p{.parts = {}, .first_part = {0}};
  for (size_t b = 0; b < lengths.size(); ++b) {
    const int64_t end = lengths[b];
    const int64_t begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
    const int64_t wanted = (end - begin + 63) / 64;
    const int64_t keys = std::clamp((wanted + kLeast - 1) / kLeast * kLeast, kLeast, kMost);
    for (int64_t at = begin; at < end; at += keys)
      p.parts.push_back({.sequence = static_cast<int32_t>(b),
                         .begin = static_cast<int32_t>(at),
                         .end = static_cast<int32_t>(std::min(end, at + keys))});
    p.first_part.push_back(static_cast<int32_t>(p.parts.size()));
  }
  return p;
}

// Heads lie side by side in a cache's rows.
ConstView cache_heads(ConstView cache, int64_t sequence, int64_t width) {
  const ConstView rows = cache.slice(0, sequence, 1).reshape({cache.dim(1), cache.dim(2)});
  return rows.reshape({cache.dim(1), cache.dim(2) / width, width});
}

template <class T>
void step(Context& ctx, const AttentionStep& a) {
  const int64_t heads = a.q.dim(1);
  const int64_t width = a.q.dim(2);
  const int64_t kv_heads = a.k.dim(2) / width;
  const Parts parts = split(a.lengths, a.window);
  const auto count = static_cast<int64_t>(parts.parts.size());
  const int64_t groups = (heads / kv_heads + kTileRows - 1) / kTileRows;
  const T* k = elements<T>(a.k);
  const T* v = elements<T>(a.v);
  // What cache_heads() sees is the first sequence.
  const bool sequences_aligned =
      pitches_aligned(k, {a.k.stride(0)}, 16) && pitches_aligned(v, {a.v.stride(0)}, 16);
  const Step<T> s{
      .y = ctx.scratch().floats(count * heads * width),
      .lse = ctx.scratch().floats(count * heads),
      .q = head_rows<T>(a.q),
      .k = k,
      .v = v,
      .k_sequence = a.k.stride(0),
      .k_row = a.k.stride(1),
      .v_sequence = a.v.stride(0),
      .v_row = a.v.stride(1),
      .parts = upload(ctx, parts.parts),
      .heads = static_cast<int>(heads),
      .kv_heads = static_cast<int>(kv_heads),
      .width = static_cast<int>(width),
      .groups = static_cast<int>(groups),
      .scale = a.scale,
      .vector = sequences_aligned &&
                whole_rows({a.q, cache_heads(a.k, 0, width), cache_heads(a.v, 0, width)}, 16)};
  const int32_t* first_part = upload(ctx, parts.first_part);
  launch(ctx, {dim3(static_cast<unsigned>(a.q.dim(0))), kJoinThreads}, append_kernel<T>,
         append<T>(a.k, a.new_k), append<T>(a.v, a.new_v), s.parts, first_part,
         static_cast<int>(kv_heads * width));
  with_padded_width("attention_step", width, [&](auto dim) {
    using Shape = typename StepShape<T, decltype(dim)::kValue>::Shape;
    launch(ctx,
           {.blocks = dim3(static_cast<unsigned>(count), static_cast<unsigned>(kv_heads * groups)),
            .threads = Shape::kThreads,
            .shared_bytes = WalkMemory<Shape>::kBytes},
           step_kernel<Shape>, s);
  });
  const Join<T> join{.to = head_rows<T>(a.y),
                     .y = s.y,
                     .lse = s.lse,
                     .first_part = first_part,
                     .heads = s.heads,
                     .width = s.width};
  launch(ctx, {dim3(static_cast<unsigned>(a.q.dim(0) * heads)), kJoinThreads}, join_kernel<T>,
         join);
}

}  // namespace

void run(Context& ctx, const AttentionStep& a) {
  if (a.q.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  if (a.q.dtype() == DType::kBF16)
    step<__nv_bfloat16>(ctx, a);
  else
    step<float>(ctx, a);
}

}  // namespace nestling::cuda
