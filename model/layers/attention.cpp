#include "model/layers/attention.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"

namespace nestling {

namespace {

void allocate(Arena& arena, const AttentionParams<Weight>& w, int64_t tokens, DType type,
              AttentionActs& a) {
  const int64_t Q = w.q.dim(0), K = w.k.dim(0), h = w.q.dim(1);
  a.q = arena.alloc(type, {tokens, Q, h});
  a.k = arena.alloc(type, {tokens, K, h});
  a.v = arena.alloc(type, {tokens, K, h});
  a.y = arena.alloc(type, {tokens, Q, h});
  a.lse = arena.alloc(DType::kF32, {tokens, Q});
}

ConstView by_head(ConstView x) {
  return x.reshape({x.dim(0) * x.dim(1), x.dim(2)});
}
View by_head(View x) {
  return x.reshape({x.dim(0) * x.dim(1), x.dim(2)});
}

// to = norm(in w^T), head by head, or the product alone where there is no norm.
HeadNormActs project_heads(Context& ctx, Arena& arena, const ModelConfig& config, ConstView in,
                           ConstView w, ConstView norm, View to) {
  HeadNormActs a;
  if (norm) a.raw = arena.alloc(DType::kF32, {to.dim(0), to.dim(1), to.dim(2)});
  linear_forward(ctx, {.y = merge_cols(norm ? a.raw : to), .x = in, .w = merge_rows(w)});
  if (!norm) return a;
  a.rstd = arena.alloc(DType::kF32, {to.dim(0) * to.dim(1)});
  rms_norm_forward(ctx, {.y = by_head(to),
                         .rstd = a.rstd,
                         .x = by_head(ConstView(a.raw)),
                         .w = norm,
                         .eps = config.eps});
  return a;
}

void project(Context& ctx, Arena& arena, const ModelConfig& config,
             const AttentionParams<Weight>& w, AttentionActs& a) {
  const ConstView in = a.norm.normed;
  a.q_norm = project_heads(ctx, arena, config, in, w.q, w.q_norm, a.q);
  a.k_norm = project_heads(ctx, arena, config, in, w.k, w.k_norm, a.k);
  linear_forward(ctx, {.y = merge_cols(a.v), .x = in, .w = merge_rows(w.v)});
}

// Turns heads of queries and keys by their positions, or back.
void rotate(Context& ctx, const ModelConfig& c, const Segments& segments,
            std::span<const int32_t> starts, const AttentionActs& a, bool inverse) {
  if (c.rotary == 0) return;
  const std::vector<float> inv_freq =
      rope_inverse_frequencies(c.rotary, c.rope_theta, c.rope_scaling);
  for (const View& x : {a.q, a.k})
    rope(
        ctx,
        {.x = x, .inv_freq = inv_freq, .segments = segments, .starts = starts, .inverse = inverse});
}

// Every sequence is a segment of one token, after those that it has.
void rotate_step(const StepRun& run, const AttentionActs& a) {
  std::vector<int32_t> offsets(run.lengths.size() + 1),
      starts(run.lengths.begin(), run.lengths.end());
  std::iota(offsets.begin(), offsets.end(), 0);
  for (int32_t& start : starts) --start;
  rotate(run.ctx, run.config, Segments(offsets), starts, a, false);
}

float softmax_scale(const ModelConfig& c) {
  if (c.attention_scale != 0) return c.attention_scale;
  return 1.0f / std::sqrt(static_cast<float>(c.head_dim));
}

// The gradient of what was projected from that of what came of it.
ConstView head_norm_backward(LayerRun& run, ConstView weight, View dweight, const HeadNormActs& a,
                             View d) {
  if (!a.raw) return d;
  View wide = d;
  if (d.dtype() != DType::kF32) {
    wide = run.arena.alloc(DType::kF32, {d.dim(0), d.dim(1), d.dim(2)});
    cast(run.ctx, wide, d);
  }
  rms_norm_backward(run.ctx, {.dx = by_head(wide),
                              .dw = dweight,
                              .dy = by_head(ConstView(wide)),
                              .x = by_head(ConstView(a.raw)),
                              .w = weight,
                              .rstd = a.rstd});
  return wide;
}

// Leaves the keys and values of every segment in its sequence's cache, behind those that it goes on from.
void fill_cache(const LayerRun& run, const AttentionActs& a, const AttentionCache& cache) {
  const Segments& s = run.segments;
  for (int64_t i = 0; i < s.count(); ++i) {
    const int64_t start = run.starts.empty() ? 0 : run.starts[static_cast<size_t>(i)];
    const auto store = [&](View to, ConstView from) {
      const ConstView rows = merge_cols(from).slice(0, s.begin(i), s.length(i));
      const View cached = to.slice(0, i, 1).reshape({to.dim(1), to.dim(2)});
      copy(run.ctx, cached.slice(0, start, s.length(i)), rows);
    };
    store(cache.k, a.k);
    store(cache.v, a.v);
  }
}

}  // namespace

AttentionActs attention_layer_forward(LayerRun& run, const AttentionParams<Weight>& w,
                                      ConstView input, View output, const AttentionCache* cache) {
  AttentionActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  allocate(run.arena, w, input.dim(0), run.activations, a);
  project(run.ctx, run.arena, run.config, w, a);
  rotate(run.ctx, run.config, run.segments, run.starts, a, false);
  if (cache != nullptr) fill_cache(run, a, *cache);
  const auto keys = [&](View own, View cached) {
    if (run.starts.empty()) return own;
    return cached.reshape({cached.dim(0), cached.dim(1), own.dim(1), own.dim(2)});
  };
  const AttentionCache all = cache != nullptr ? *cache : AttentionCache{};
  attention_forward(run.ctx, {.y = a.y,
                              .lse = a.lse,
                              .q = a.q,
                              .k = keys(a.k, all.k),
                              .v = keys(a.v, all.v),
                              .segments = run.segments,
                              .scale = softmax_scale(run.config),
                              .starts = run.starts});
  const View to = begin_mixer_output(run, input, output, a.mixed);
  const Arena::Mark mark(run.ctx.scratch());
  const ConstView y = masked(run.ctx, a.y, run.layer_masks().query_heads, a.y.dim(2));
  linear_forward(run.ctx, {.y = to, .x = merge_cols(y), .w = merge_cols(w.o), .accumulate = true});
  end_mixer_output(run, input, output, to);
  return a;
}

void attention_layer_backward(LayerRun& run, const AttentionParams<Weight>& w,
                              const AttentionParams<View>& g, const AttentionActs& a, View dh) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(run.arena);
  const Arena::Mark scratch(ctx.scratch());
  AttentionActs d;
  allocate(run.arena, w, dh.dim(0), run.activations, d);
  const View dnormed = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  const ConstView heads = run.layer_masks().query_heads;
  linear_backward(ctx, {.dx = merge_cols(d.y),
                        .dw = merge_cols(g.o),
                        .dy = mixer_output_backward(run, a.mixed, dh),
                        .x = merge_cols(masked(ctx, a.y, heads, a.y.dim(2))),
                        .w = merge_cols(w.o),
                        .accumulate_dw = !run.fresh});
  masked_backward(ctx, d.y, a.y, heads, run.layer_mask_grads().query_heads, a.y.dim(2));
  attention_backward(ctx, {.dq = d.q,
                           .dk = d.k,
                           .dv = d.v,
                           .dy = d.y,
                           .q = a.q,
                           .k = a.k,
                           .v = a.v,
                           .y = a.y,
                           .lse = a.lse,
                           .segments = run.segments,
                           .scale = softmax_scale(run.config)});
  rotate(ctx, run.config, run.segments, {}, d, true);
  const auto project_backward = [&](ConstView dy, ConstView weight, View dweight, bool accumulate) {
    linear_backward(ctx, {.dx = dnormed,
                          .dw = merge_rows(dweight),
                          .dy = merge_cols(dy),
                          .x = a.norm.normed,
                          .w = merge_rows(weight),
                          .accumulate_dx = accumulate,
                          .accumulate_dw = !run.fresh});
  };
  project_backward(head_norm_backward(run, w.q_norm, g.q_norm, a.q_norm, d.q), w.q, g.q, false);
  project_backward(head_norm_backward(run, w.k_norm, g.k_norm, a.k_norm, d.k), w.k, g.k, true);
  project_backward(d.v, w.v, g.v, true);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

void attention_layer_step(StepRun& run, const AttentionParams<Weight>& w,
                          const AttentionCache& cache, View h) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const int64_t batch = h.dim(0);
  AttentionActs a;
  allocate(ctx.scratch(), w, batch, cache.k.dtype(), a);
  a.norm = {.input = h,
            .rstd = ctx.scratch().alloc(DType::kF32, {batch}),
            .normed = ctx.scratch().alloc(DType::kF32, {batch, h.dim(1)})};
  rms_norm_forward(
      ctx, {.y = a.norm.normed, .rstd = a.norm.rstd, .x = h, .w = w.norm, .eps = run.config.eps});
  project(ctx, ctx.scratch(), run.config, w, a);
  rotate_step(run, a);
  attention_step(ctx, {.y = a.y,
                       .q = a.q,
                       .new_k = merge_cols(ConstView(a.k)),
                       .new_v = merge_cols(ConstView(a.v)),
                       .k = cache.k,
                       .v = cache.v,
                       .lengths = run.lengths,
                       .scale = softmax_scale(run.config)});
  const View to = begin_step_output(run, h);
  linear_forward(
      ctx, {.y = to, .x = merge_cols(ConstView(a.y)), .w = merge_cols(w.o), .accumulate = true});
  end_step_output(run, h, to);
}

}  // namespace nestling
