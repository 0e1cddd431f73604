// attention.h - causal softmax attention with grouped query heads, tiled: the S x S scores are
// never in memory (Dao et al. 2022, "FlashAttention", algorithms 1 and 4; Dao 2023 for the
// backward).
//
// Shapes        q, y [T, Q, h]   k, v [T, K, h]   lse [T, Q]
//               Q query heads, K KV heads, h head dim. Heads may lie apart (a prefix view).
// Heads         query head i reads KV head i mod K (slot-major); Q is a multiple of K.
// Mask          token t sees tokens s <= t of its own segment. With `window` > 0 only
//               s > t - window.
// Continued     forward with `starts`: segment i goes on behind starts[i] tokens of its sequence. Keys and
//               values are caches, which hold those of the segment too, and it sees all of them.
// Dtypes        f32; softmax in f32. scale > 0 is usually 1/sqrt(h). On CUDA all operands but lse may be
//               bf16 instead: products in bf16 (so are the softmax's weights and their gradients),
//               sums and lse in f32.
// Saved         lse = log of the sum of exponentials, per token and head.
// Elasticity    Q comes from the views: the heads of the first slots are a prefix of dim 1.
// FLOPs         counted causally: 4h forward and 10h backward for each visible pair and head.
// Scratch       CPU: backward threads x 4 S h, S the longest segment; forward and step need less.
//               CUDA: backward T Q, step Q (h + 1) f32 for each part of the caches (64 keys or more),
//               and tables of 20 bytes for 64 (h > 128: 16) tokens. On warpgroups backward 2 T Q f32,
//               and, where short sequences make it split the query heads of a KV head into parts > 1, another
//               parts x 2 T K x 64 (h <= 64) or x 128.
// Limits        CUDA: h <= 256.
// Determinism   same inputs, shapes and threads: same bits. Forward and step do not depend on the
//               threads at all; a sequence's step not on the others of its batch.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling {

struct AttentionForward {
  View y;          // [T, Q, h] overwritten
  View lse;        // [T, Q]    overwritten
  ConstView q;     // [T, Q, h]
  ConstView k, v;  // [T, K, h]; with starts caches [segments, capacity, K, h], one behind the other
  Segments segments;
  float scale;
  int64_t window = 0;
  std::span<const int32_t> starts = {};  // [segments] host memory, each >= 0; empty: not continued
};

struct AttentionBackward {
  View dq;       // [T, Q, h] overwritten
  View dk, dv;   // [T, K, h] overwritten
  ConstView dy;  // [T, Q, h]
  ConstView q, k, v, y, lse;
  Segments segments;
  float scale;
  int64_t window = 0;
};

// One new token for each of B sequences against a cache. Sequence b has `lengths[b]` tokens in the
// cache, the new one included: its key and value become row lengths[b] - 1.
struct AttentionStep {
  View y;                            // [B, Q, h] overwritten
  ConstView q;                       // [B, Q, h]
  ConstView new_k, new_v;            // [B, K * h]
  View k, v;                         // [B, capacity, K * h] caches
  std::span<const int32_t> lengths;  // [B] host memory, each 1..capacity
  float scale;
  int64_t window = 0;
};

void attention_forward(Context& ctx, const AttentionForward& a);
void attention_backward(Context& ctx, const AttentionBackward& a);
void attention_step(Context& ctx, const AttentionStep& a);

// Backends get caches as rows: k and v [segments * capacity, K, h].
namespace cpu {
void run(Context& ctx, const AttentionForward& a);
void run(Context& ctx, const AttentionBackward& a);
void run(Context& ctx, const AttentionStep& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const AttentionForward& a);
void run(Context& ctx, const AttentionBackward& a);
void run(Context& ctx, const AttentionStep& a);
}  // namespace cuda

}  // namespace nestling
