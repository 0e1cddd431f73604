#include "kernels/ops/attention.h"

#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/cpu/attention_split.h"

namespace nestling::cpu {

namespace attention {

void product_avx2(const TileGemm& g) {
  tile_gemm<simd::F8>(g);
}
NESTLING_TARGET_AVX512 void product_avx512(const TileGemm& g) {
  tile_gemm<simd::F16>(g);
}

}  // namespace attention

namespace {

using namespace attention;  // NOLINT(google-build-using-namespace)

struct HeadBlock {  // one block of one query head, and its KV head's segment
  Mask mask;
  int64_t width;
  float scale;
  Rows<const float> q;     // from the block's first query
  Rows<const float> k, v;  // from the sequence's first token
  Rows<float> y;           // from the block's first query
  float* lse;
  int64_t lse_pitch;
};

template <class V>
NESTLING_INLINE void forward_block(const HeadBlock& b, float* scratch) {
  const Online o(b.width, b.mask.count, scratch);
  pack_lanes<V>(b.q, b.mask.count, b.width, b.scale * kLog2E, o.q);
  for (int64_t key = b.mask.key_begin(); key < b.mask.key_end(); key += kTile)
    absorb<V>(o, b.mask, key, std::min(kTile, b.mask.key_end() - key), {b.k.row(key), b.k.pitch},
              {b.v.row(key), b.v.pitch});
  for (int64_t i = 0; i < b.mask.count; ++i) {
    b.lse[i * b.lse_pitch] = (o.peak[i] + std::log2(o.total[i])) * kLn2;
    o.total[i] = 1.0f / o.total[i];
  }
  unpack_lanes<V>(o.out, b.mask.count, b.width, o.total, b.y);
}
void forward_avx2(const HeadBlock& b, float* scratch) {
  forward_block<simd::F8>(b, scratch);
}
NESTLING_TARGET_AVX512 void forward_avx512(const HeadBlock& b, float* scratch) {
  forward_block<simd::F16>(b, scratch);
}

// `start`: tokens before the segment.
HeadBlock head_block(const AttentionForward& a, int64_t start, const Block& block) {
  const int64_t head = block.slot * a.k.dim(1) + block.kv;
  const int64_t own = a.segments.begin(block.segment);
  const int64_t first = a.starts.empty() ? own : block.segment * (a.k.dim(0) / a.segments.count());
  const int64_t token = own + block.mask.first - start;
  const auto at = [](auto* data, ConstView v, int64_t t, int64_t h) {
    return Rows{data + t * v.stride(0) + h * v.stride(1), v.stride(0)};
  };
  return {.mask = block.mask,
          .width = a.q.dim(2),
          .scale = a.scale,
          .q = at(a.q.ptr<float>(), a.q, token, head),
          .k = at(a.k.ptr<float>(), a.k, first, block.kv),
          .v = at(a.v.ptr<float>(), a.v, first, block.kv),
          .y = at(a.y.ptr<float>(), a.y, token, head),
          .lse = a.lse.ptr<float>() + token * a.lse.stride(0) + head,
          .lse_pitch = a.lse.stride(0)};
}

}  // namespace

void run(Context& ctx, const AttentionForward& a) {
  const int64_t kv_heads = a.k.dim(1);
  const Split split(a.segments, a.starts, kv_heads, a.q.dim(1) / kv_heads, a.window,
                    thread_count());
  const int64_t floats = Online::floats(a.q.dim(2));
  const Arena::Mark mark(ctx.scratch());
  float* scratch = ctx.scratch().floats(split.parts() * floats);
  if (ctx.device() == Device::kNull) return;  // the scratch is taken, nothing is computed
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? forward_avx512 : forward_avx2;
  parallel_for(split.parts(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      split.for_each(part, [&](const Block& block) {
        body(head_block(a, split.start(block.segment), block), scratch + part * floats);
      });
  });
}

}  // namespace nestling::cpu
