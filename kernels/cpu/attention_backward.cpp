#include <utility>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/cpu/attention_split.h"
#include "kernels/ops/attention.h"

namespace nestling::cpu {

namespace {

using namespace attention;  // NOLINT(google-build-using-namespace)

template <class T>
Rows<T> rows_at(T* data, ConstView v, int64_t token, int64_t head) {
  return {data + token * v.stride(0) + head * v.stride(1), v.stride(0)};
}

struct HeadBlock {  // one block of one query head, and its KV head's segment
  Mask mask;
  int64_t width;
  float scale;
  Rows<const float> q, dy, y;  // from the block's first query
  Rows<const float> k, v;      // from the segment's first token
  Rows<float> dq;              // from the block's first query
  const float* lse;
  int64_t lse_pitch;
  float *dk, *dv;  // [segment length, padded width] sums, added to
};

// Working memory of one block; pointers into one run of floats.
struct Scratch {
  static_assert(kTile == kBlock);
  int64_t padded;              // width in whole vectors
  float *q, *dy;               // [kBlock, padded] rows, q times scale
  float *q_lanes, *dy_lanes;   // [width, kBlock]; q times scale * log2(e)
  float* dq;                   // [width, kBlock]
  float* k;                    // [kTile, width]
  float *p, *ds;               // [kTile, kBlock]
  float *lse, *delta, *scale;  // [kBlock]

  static int64_t floats(int64_t width) {
    return (2 * round_up(width) + 4 * width + 2 * kTile + 3) * kBlock;
  }
  Scratch(int64_t width, float* memory) : padded(round_up(width)) {
    const auto take = [&](int64_t n) { return std::exchange(memory, memory + n * kBlock); };
    q = take(padded);
    dy = take(padded);
    q_lanes = take(width);
    dy_lanes = take(width);
    dq = take(width);
    k = take(width);
    p = take(kTile);
    ds = take(kTile);
    lse = take(1);
    delta = take(1);
    scale = take(1);
  }
};

// out [count, padded] = scale * x, the padding zero.
template <class V>
NESTLING_INLINE void pack_rows(Rows<const float> x, int64_t count, int64_t width, float scale,
                               int64_t padded, float* out) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t i = 0; i < count; ++i) {
    float* row = out + i * padded;
    int64_t c = 0;
    for (; c + kN <= width; c += kN) simd::store(row + c, scale * simd::load<V>(x.row(i) + c));
    for (; c < width; ++c) row[c] = scale * x.row(i)[c];
    for (; c < padded; ++c) row[c] = 0.0f;
  }
}

template <class V>
NESTLING_INLINE float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V sum{};
  int64_t c = 0;
  for (; c + kN <= n; c += kN) sum += simd::load<V>(a + c) * simd::load<V>(b + c);
  float tail = 0;
  for (; c < n; ++c) tail += a[c] * b[c];
  return simd::sum(sum) + tail;
}

template <class V>
NESTLING_INLINE void prepare(const HeadBlock& b, const Scratch& s) {
  const int64_t count = b.mask.count;
  pack_rows<V>(b.q, count, b.width, b.scale, s.padded, s.q);
  pack_rows<V>(b.dy, count, b.width, 1.0f, s.padded, s.dy);
  pack_lanes<V>(b.q, count, b.width, b.scale * kLog2E, s.q_lanes);
  pack_lanes<V>(b.dy, count, b.width, 1.0f, s.dy_lanes);
  std::fill_n(s.dq, b.width * kBlock, 0.0f);
  std::fill_n(s.scale, kBlock, b.scale);
  std::fill_n(s.lse, kBlock, 0.0f);
  std::fill_n(s.delta, kBlock, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    s.lse[i] = b.lse[i * b.lse_pitch] * kLog2E;
    s.delta[i] = dot<V>(b.dy.row(i), b.y.row(i), b.width);
  }
}

// p: scores -> probabilities; ds: gradients of the probabilities -> of the scores.
template <class V>
NESTLING_INLINE void differentiate_softmax(const Scratch& s, int64_t lanes, int64_t keys) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  for (int64_t j = 0; j < lanes; j += kN) {
    const V lse = simd::load<V>(s.lse + j);
    const V delta = simd::load<V>(s.delta + j);
    for (int64_t i = j; i < j + keys * kBlock; i += kBlock) {
      const V p = exp2<V>(simd::load<V>(s.p + i) - lse);
      simd::store(s.p + i, p);
      simd::store(s.ds + i, p * (simd::load<V>(s.ds + i) - delta));
    }
  }
}

template <class V>
NESTLING_INLINE void backward_tile(const HeadBlock& b, const Scratch& s, int64_t key,
                                   int64_t keys) {
  const int64_t lanes = round_up(b.mask.count);
  const auto k = gather_rows<V>({b.k.row(key), b.k.pitch}, keys, b.width, s.k);
  const float* v = b.v.row(key);
  float* dk = b.dk + key * s.padded;
  float* dv = b.dv + key * s.padded;
  product<V>({.m = keys,
              .n = lanes,
              .k = b.width,
              .a = k.data,
              .a_row = k.pitch,
              .a_col = 1,
              .b = s.q_lanes,
              .ldb = kBlock,
              .c = s.p,
              .ldc = kBlock});
  product<V>({.m = keys,
              .n = lanes,
              .k = b.width,
              .a = v,
              .a_row = b.v.pitch,
              .a_col = 1,
              .b = s.dy_lanes,
              .ldb = kBlock,
              .c = s.ds,
              .ldc = kBlock});
  hide(b.mask, key, keys, s.p);
  differentiate_softmax<V>(s, lanes, keys);
  product<V>({.m = keys,
              .n = s.padded,
              .k = b.mask.count,
              .a = s.p,
              .a_row = kBlock,
              .a_col = 1,
              .b = s.dy,
              .ldb = s.padded,
              .c = dv,
              .ldc = s.padded,
              .accumulate = true});
  product<V>({.m = keys,
              .n = s.padded,
              .k = b.mask.count,
              .a = s.ds,
              .a_row = kBlock,
              .a_col = 1,
              .b = s.q,
              .ldb = s.padded,
              .c = dk,
              .ldc = s.padded,
              .accumulate = true});
  product<V>({.m = b.width,
              .n = lanes,
              .k = keys,
              .a = k.data,
              .a_row = 1,
              .a_col = k.pitch,
              .b = s.ds,
              .ldb = kBlock,
              .c = s.dq,
              .ldc = kBlock,
              .accumulate = true});
}

template <class V>
NESTLING_INLINE void backward_block(const HeadBlock& b, const Scratch& s) {
  prepare<V>(b, s);
  for (int64_t key = b.mask.key_begin(); key < b.mask.key_end(); key += kTile)
    backward_tile<V>(b, s, key, std::min(kTile, b.mask.key_end() - key));
  unpack_lanes<V>(s.dq, b.mask.count, b.width, s.scale, b.dq);
}
void backward_avx2(const HeadBlock& b, const Scratch& s) {
  backward_block<simd::F8>(b, s);
}
NESTLING_TARGET_AVX512 void backward_avx512(const HeadBlock& b, const Scratch& s) {
  backward_block<simd::F16>(b, s);
}

// Sums of dk and dv over one (segment, KV head), [length, padded] each.
struct KeySums {
  float *dk, *dv;
  int64_t padded;
  int64_t segment = -1, kv = -1;

  bool holds(const Block& b) const { return b.segment == segment && b.kv == kv; }
  void start(const AttentionBackward& a, const Block& b) {
    segment = b.segment;
    kv = b.kv;
    std::fill_n(dk, a.segments.length(segment) * padded, 0.0f);
    std::fill_n(dv, a.segments.length(segment) * padded, 0.0f);
  }
  // Writes the sums of tokens [begin, end) of the segment to dk and dv, or adds them.
  void flush(const AttentionBackward& a, bool add, int64_t begin, int64_t end) const {
    const int64_t start = a.segments.begin(segment);
    const auto out_k = rows_at(a.dk.ptr<float>(), a.dk, start, kv);
    const auto out_v = rows_at(a.dv.ptr<float>(), a.dv, start, kv);
    for (int64_t t = begin; t < end; ++t)
      for (int64_t c = 0; c < a.k.dim(2); ++c) {
        const float sum_k = dk[t * padded + c];
        const float sum_v = dv[t * padded + c];
        out_k.row(t)[c] = add ? out_k.row(t)[c] + sum_k : sum_k;
        out_v.row(t)[c] = add ? out_v.row(t)[c] + sum_v : sum_v;
      }
  }
  void flush(const AttentionBackward& a) const { flush(a, false, 0, a.segments.length(segment)); }
};

HeadBlock head_block(const AttentionBackward& a, const Block& block, const KeySums& sums) {
  const int64_t head = block.slot * a.k.dim(1) + block.kv;
  const int64_t start = a.segments.begin(block.segment);
  const int64_t token = start + block.mask.first;
  return {.mask = block.mask,
          .width = a.q.dim(2),
          .scale = a.scale,
          .q = rows_at(a.q.ptr<float>(), a.q, token, head),
          .dy = rows_at(a.dy.ptr<float>(), a.dy, token, head),
          .y = rows_at(a.y.ptr<float>(), a.y, token, head),
          .k = rows_at(a.k.ptr<float>(), a.k, start, block.kv),
          .v = rows_at(a.v.ptr<float>(), a.v, start, block.kv),
          .dq = rows_at(a.dq.ptr<float>(), a.dq, token, head),
          .lse = a.lse.ptr<float>() + token * a.lse.stride(0) + head,
          .lse_pitch = a.lse.stride(0),
          .dk = sums.dk,
          .dv = sums.dv};
}

// One part of the line of blocks. The part that begins a (segment, KV head) owns its dk and dv; a
// part that begins in the middle of one leaves its share in `front`, to be added afterwards.
void run_part(const AttentionBackward& a, const Split& split, int64_t part, const Scratch& scratch,
              KeySums own, KeySums& front) {
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? backward_avx512 : backward_avx2;
  bool any = false;
  split.for_each(part, [&](const Block& block) {
    const bool begins = block.slot == 0 && block.mask.first == 0;
    if (!any && !begins) front.start(a, block);
    any = true;
    if (front.holds(block)) {
      body(head_block(a, block, front), scratch);
      return;
    }
    if (!own.holds(block)) {
      if (own.segment >= 0) own.flush(a);
      own.start(a, block);
    }
    body(head_block(a, block, own), scratch);
  });
  if (own.segment >= 0) own.flush(a);
}

}  // namespace

void run(Context& ctx, const AttentionBackward& a) {
  const int64_t kv_heads = a.k.dim(1);
  const int64_t width = a.q.dim(2);
  const Split split(a.segments, {}, kv_heads, a.q.dim(1) / kv_heads, a.window, thread_count());
  int64_t longest = 0;
  for (int64_t i = 0; i < a.segments.count(); ++i)
    longest = std::max(longest, a.segments.length(i));

  const Arena::Mark mark(ctx.scratch());
  const int64_t padded = round_up(width);
  const int64_t sums = longest * padded;
  const int64_t stride = Scratch::floats(width) + 4 * sums;
  float* memory = ctx.scratch().floats(split.parts() * stride);
  if (ctx.device() == Device::kNull) return;  // the scratch is taken, nothing is computed
  std::vector<KeySums> fronts;
  for (int64_t part = 0; part < split.parts(); ++part) {
    float* front = memory + part * stride + Scratch::floats(width) + 2 * sums;
    fronts.push_back({.dk = front, .dv = front + sums, .padded = padded});
  }
  parallel_for(split.parts(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* own = memory + part * stride + Scratch::floats(width);
      run_part(a, split, part, Scratch(width, memory + part * stride),
               {.dk = own, .dv = own + sums, .padded = padded}, fronts[static_cast<size_t>(part)]);
    }
  });
  for (const KeySums& front : fronts)  // in the order of the parts
    if (front.segment >= 0)
      parallel_for(a.segments.length(front.segment), kTile,
                   [&](int64_t begin, int64_t end) { front.flush(a, true, begin, end); });
}

}  // namespace nestling::cpu
