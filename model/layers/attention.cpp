#include "model/layers/attention.h"

#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/rms_norm.h"

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

void project(Context& ctx, const AttentionParams<Weight>& w, const AttentionActs& a) {
  const ConstView in = a.norm.normed;
  linear_forward(ctx, {.y = merge_cols(a.q), .x = in, .w = merge_rows(w.q)});
  linear_forward(ctx, {.y = merge_cols(a.k), .x = in, .w = merge_rows(w.k)});
  linear_forward(ctx, {.y = merge_cols(a.v), .x = in, .w = merge_rows(w.v)});
}

float softmax_scale(const AttentionParams<Weight>& w) {
  return 1.0f / std::sqrt(static_cast<float>(w.q.dim(1)));
}

// Leaves the keys and values of every segment at the start of its sequence's cache.
void fill_cache(const LayerRun& run, const AttentionActs& a, const AttentionCache& cache) {
  const Segments& s = run.segments;
  for (int64_t i = 0; i < s.count(); ++i) {
    const auto store = [&](View to, ConstView from) {
      const ConstView rows = merge_cols(from).slice(0, s.begin(i), s.length(i));
      copy(run.ctx, to.slice(0, i, 1).reshape({to.dim(1), to.dim(2)}).prefix(0, s.length(i)), rows);
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
  project(run.ctx, w, a);
  attention_forward(run.ctx, {.y = a.y,
                              .lse = a.lse,
                              .q = a.q,
                              .k = a.k,
                              .v = a.v,
                              .segments = run.segments,
                              .scale = softmax_scale(w)});
  if (cache != nullptr) fill_cache(run, a, *cache);
  const View to = begin_mixer_output(run, input, output, a.mixed);
  const Arena::Mark mark(run.ctx.scratch());
  const ConstView y = masked(run.ctx, a.y, run.layer_masks().query_heads, a.y.dim(2));
  linear_forward(run.ctx, {.y = to, .x = merge_cols(y), .w = merge_cols(w.o), .accumulate = true});
  end_mixer_output(run, input, output, a.mixed);
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
                           .scale = softmax_scale(w)});
  const auto project_backward = [&](View dy, ConstView weight, View dweight, bool accumulate) {
    linear_backward(ctx, {.dx = dnormed,
                          .dw = merge_rows(dweight),
                          .dy = merge_cols(dy),
                          .x = a.norm.normed,
                          .w = merge_rows(weight),
                          .accumulate_dx = accumulate,
                          .accumulate_dw = !run.fresh});
  };
  project_backward(d.q, w.q, g.q, false);
  project_backward(d.k, w.k, g.k, true);
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
  project(ctx, w, a);
  attention_step(ctx, {.y = a.y,
                       .q = a.q,
                       .new_k = merge_cols(ConstView(a.k)),
                       .new_v = merge_cols(ConstView(a.v)),
                       .k = cache.k,
                       .v = cache.v,
                       .lengths = run.lengths,
                       .scale = softmax_scale(w)});
  linear_forward(
      ctx, {.y = h, .x = merge_cols(ConstView(a.y)), .w = merge_cols(w.o), .accumulate = true});
}

}  // namespace nestling
