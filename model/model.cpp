#include "model/model.h"

#include <type_traits>

#include "kernels/core/span.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/mask.h"
#include "kernels/ops/rms_norm.h"
#include "model/shared_layers.h"

namespace nestling {

namespace {

// Spans of a layer, by kind: in the order of LayerParams and LayerActs.
constexpr const char* kForward[] = {"mamba forward", "attention forward", "dense forward",
                                    "moe forward"};
constexpr const char* kBackward[] = {"mamba backward", "attention backward", "dense backward",
                                     "moe backward"};
constexpr const char* kStep[] = {"mamba step", "attention step", "dense step", "moe step"};
static_assert(std::size(kForward) == std::variant_size_v<LayerActs>);

LayerActs forward_layer(LayerRun& run, const LayerParams<Weight>& w, ConstView input, View output,
                        const LayerCache* cache) {
  const Span span(run.ctx, kForward[w.index()]);
  const Arena::Mark scratch(run.ctx.scratch());
  if (const auto* m = std::get_if<MambaParams<Weight>>(&w))
    return mamba_forward(run, *m, input, output, cache ? &cache->mamba : nullptr);
  if (const auto* a = std::get_if<AttentionParams<Weight>>(&w))
    return attention_layer_forward(run, *a, input, output, cache ? &cache->attention : nullptr);
  if (const auto* f = std::get_if<FfnParams<Weight>>(&w))
    return ffn_forward(run, *f, input, output);
  return moe_forward(run, std::get<MoeParams<Weight>>(w), input, output);
}

void backward_layer(LayerRun& run, const LayerParams<Weight>& w, const LayerParams<View>& g,
                    const LayerActs& acts, View dh) {
  const Span span(run.ctx, kBackward[acts.index()]);
  if (const auto* m = std::get_if<MambaActs>(&acts))
    return mamba_backward(run, std::get<MambaParams<Weight>>(w), std::get<MambaParams<View>>(g), *m,
                          dh);
  if (const auto* a = std::get_if<AttentionActs>(&acts))
    return attention_layer_backward(run, std::get<AttentionParams<Weight>>(w),
                                    std::get<AttentionParams<View>>(g), *a, dh);
  if (const auto* f = std::get_if<FfnActs>(&acts))
    return ffn_backward(run, std::get<FfnParams<Weight>>(w), std::get<FfnParams<View>>(g), *f, dh);
  moe_backward(run, std::get<MoeParams<Weight>>(w), std::get<MoeParams<View>>(g),
               std::get<MoeActs>(acts), dh);
}

// Runs a layer and keeps what recompute needs: its input, and of experts how many tokens each got.
LayerActs forward_and_forget(const LayerRun& run, const LayerParams<Weight>& w, ConstView input,
                             View output, const LayerCache* cache) {
  const auto* moe = std::get_if<MoeParams<Weight>>(&w);
  const View offsets = moe ? run.arena.alloc(DType::kI32, {moe->gate.dim(0) + 1}) : View();
  const Arena::Mark mark(run.arena);
  LayerRun once = run;
  once.save = false;
  LayerActs acts = forward_layer(once, w, input, output, cache);
  std::visit(
      [&]<class Acts>(Acts& all) {
        Acts kept;
        kept.norm.input = input;
        if constexpr (std::is_same_v<Acts, MoeActs>) {
          copy(run.ctx, offsets, all.offsets);
          kept.offsets = offsets;
        }
        all = kept;
      },
      acts);
  return acts;
}

// Its output goes where it was: the same bits.
LayerActs forward_again(LayerRun& run, const LayerParams<Weight>& w, const LayerActs& kept,
                        View output) {
  const ConstView input = std::visit([](const auto& a) { return a.norm.input; }, kept);
  return forward_layer(run, w, input, output, nullptr);
}

void check_masks(const ModelMasks& m, size_t layers) {
  NESTLING_CHECK(m.layers.size() == layers, "masks of ", m.layers.size(), " layers for a model of ",
                 layers);
  NESTLING_CHECK(static_cast<bool>(m.hidden) == static_cast<bool>(m.active),
                 "a hidden mask needs its sum, and a sum its mask");
  for (const LayerMasks& l : m.layers)
    NESTLING_CHECK(
        static_cast<bool>(l.heads) == static_cast<bool>(l.group_active) && (!m.hidden || l.out),
        "a mask of heads needs the sum over a group; a hidden mask holds in every layer");
}

ConstView hidden_mask(const LayerRun& run) {
  return run.masks ? run.masks->hidden : ConstView();
}

void look_up(Context& ctx, const ModelConfig& config, ConstView table, ConstView tokens, View h) {
  embedding_forward(ctx, {.y = h, .table = table, .ids = tokens});
  if (config.embedding_scale != 1) scale(ctx, h, config.embedding_scale);
}

void embed(LayerRun& run, ConstView table, ConstView tokens, View h) {
  const Span span(run.ctx, "embedding forward");
  look_up(run.ctx, run.config, table, tokens, h);
  if (const ConstView m = hidden_mask(run)) mask_forward(run.ctx, {.y = h, .x = h, .m = m});
}

// The embedding is read again for the mask's gradient rather than kept.
void hidden_mask_backward(LayerRun& run, ConstView table, ConstView tokens, View dh) {
  if (!hidden_mask(run)) return;
  const Arena::Mark mark(run.arena);
  const View raw = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  look_up(run.ctx, run.config, table, tokens, raw);
  mask_backward(run.ctx, {.dx = dh,
                          .dm = run.mask_grads ? run.mask_grads->hidden : View(),
                          .dy = dh,
                          .x = raw,
                          .m = hidden_mask(run)});
}

void embed_backward(LayerRun& run, ConstView table, View dtable, ConstView tokens, View dh) {
  const Span span(run.ctx, "embedding backward");
  hidden_mask_backward(run, table, tokens, dh);
  if (run.config.embedding_scale != 1) scale(run.ctx, dh, run.config.embedding_scale);
  embedding_backward(run.ctx, {.dtable = dtable, .dy = dh, .ids = tokens});
}

// A layer without state: its step is its forward on B tokens that do not see each other.
void step_stateless(StepRun& run, const LayerParams<Weight>& w, View h) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const int32_t offsets[] = {0, static_cast<int32_t>(h.dim(0))};
  LayerRun one{.ctx = ctx,
               .arena = ctx.scratch(),
               .config = run.config,
               .segments = Segments(offsets),
               .save = false};
  const View output = ctx.scratch().alloc(DType::kF32, {h.dim(0), h.dim(1)});
  forward_layer(one, w, h, output, nullptr);
  copy(ctx, h, output);
}

}  // namespace

ModelActs model_forward(LayerRun& run, const ModelParams<Weight>& w, ConstView tokens,
                        const std::vector<LayerCache>* caches, const LayerWatch& watch) {
  const int64_t count = tokens.dim(0);
  const int64_t width = w.embeddings.dim(1);
  NESTLING_CHECK(run.segments.tokens() == count, "segments cover ", run.segments.tokens(),
                 " tokens, the batch holds ", count);
  if (run.masks != nullptr) check_masks(*run.masks, w.layers.size());
  NESTLING_CHECK(run.starts.empty() || (caches != nullptr && !run.masks),
                 "going on without caches, or under masks");
  NESTLING_CHECK(!run.hold || (run.save && !run.recompute && !run.starts.empty()),
                 "a held forward that keeps nothing");
  ModelActs acts;
  const auto stream = [&] { return run.arena.alloc(DType::kF32, {count, width}); };
  View h = stream();
  const bool keeps = run.save && !watch;
  View spare = keeps ? View() : stream();  // else it alternates between two streams
  embed(run, w.embeddings, tokens, h);
  for (size_t l = 0; l < w.layers.size(); ++l) {
    run.layer = l;
    const LayerCache* cache = caches ? &(*caches)[l] : nullptr;
    if (w.shared != nullptr && is_kept(w.layers[l])) w.shared->bring(run.ctx, l);
    if (!is_kept(w.layers[l])) {
      if (keeps) acts.layers.emplace_back();
      if (run.recompute) acts.outputs.emplace_back();
    } else if (keeps) {
      const View next = stream();
      acts.layers.push_back(run.recompute ? forward_and_forget(run, w.layers[l], h, next, cache)
                                          : forward_layer(run, w.layers[l], h, next, cache));
      if (run.recompute) acts.outputs.push_back(next);
      h = next;
    } else {
      const Arena::Mark mark(run.arena);
      const LayerActs made = forward_layer(run, w.layers[l], h, spare, cache);
      if (watch) watch(l, made, spare);
      std::swap(h, spare);
    }
  }
  acts.final_norm = layer_norm_forward(run, w.final_norm, h);
  return acts;
}

void model_advance(LayerRun& run, const ModelParams<Weight>& w, const ModelActs& acts,
                   std::span<const int32_t> counts, const std::vector<LayerCache>& caches) {
  NESTLING_CHECK(acts.layers.size() == w.layers.size(),
                 "what stands of a forward that saved nothing");
  NESTLING_CHECK(std::ssize(counts) == run.segments.count(), counts.size(), " counts for ",
                 run.segments.count(), " segments");
  for (int64_t i = 0; i < run.segments.count(); ++i) {
    const int32_t count = counts[static_cast<size_t>(i)];
    NESTLING_CHECK(1 <= count && count <= run.segments.length(i), count, " tokens stand of ",
                   run.segments.length(i), " of segment ", i);
  }
  for (size_t l = 0; l < w.layers.size(); ++l) {
    if (!is_kept(w.layers[l])) continue;
    if (const auto* m = std::get_if<MambaParams<Weight>>(&w.layers[l]))
      mamba_advance(run, *m, std::get<MambaActs>(acts.layers[l]), counts, caches[l].mamba);
  }
}

void model_backward(LayerRun& run, const ModelParams<Weight>& w, const ModelParams<View>& g,
                    const ModelActs& acts, ConstView tokens, View dnormed) {
  NESTLING_CHECK(acts.layers.size() == w.layers.size(), "backward of a forward that saved nothing");
  norm_backward(run, w.final_norm, g.final_norm, acts.final_norm, dnormed, dnormed);
  LayerRun inside = run;
  inside.fresh = run.fresh && w.shared == nullptr;  // a window of gradients was another layer's
  for (size_t l = w.layers.size(); l-- > 0;) {
    inside.layer = l;
    if (!is_kept(w.layers[l])) continue;
    const Arena::Mark mark(run.arena);
    if (w.shared != nullptr) {
      w.shared->bring(run.ctx, l);
      w.shared->clear_gradients(run.ctx, l);
    }
    backward_layer(inside, w.layers[l], g.layers[l],
                   run.recompute
                       ? forward_again(inside, w.layers[l], acts.layers[l], acts.outputs[l])
                       : acts.layers[l],
                   dnormed);
    if (w.shared != nullptr) w.shared->add_gradients(run.ctx, l);
  }
  embed_backward(run, w.embeddings, g.embeddings, tokens, dnormed);
}

void model_step(StepRun& run, const ModelParams<Weight>& w, ConstView tokens,
                const std::vector<LayerCache>& caches, View normed) {
  NESTLING_CHECK(w.shared == nullptr, "a step of weights that ranks share");
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const int64_t batch = tokens.dim(0);
  const View h = ctx.scratch().alloc(DType::kF32, {batch, w.embeddings.dim(1)});
  look_up(ctx, run.config, w.embeddings, tokens, h);
  for (size_t l = 0; l < w.layers.size(); ++l) {
    if (!is_kept(w.layers[l])) continue;
    const Span span(ctx, kStep[w.layers[l].index()]);
    if (const auto* m = std::get_if<MambaParams<Weight>>(&w.layers[l]))
      mamba_step(run, *m, caches[l].mamba, h);
    else if (const auto* a = std::get_if<AttentionParams<Weight>>(&w.layers[l]))
      attention_layer_step(run, *a, caches[l].attention, h);
    else
      step_stateless(run, w.layers[l], h);
  }
  const View rstd = ctx.scratch().alloc(DType::kF32, {batch});
  rms_norm_forward(ctx,
                   {.y = normed, .rstd = rstd, .x = h, .w = w.final_norm, .eps = run.config.eps});
}

void model_logits(Context& ctx, const ModelParams<Weight>& w, ConstView normed, View out) {
  linear_forward(ctx, {.y = out, .x = normed, .w = w.head});
  if (w.logit_scale != 1) scale(ctx, out, w.logit_scale);
}

}  // namespace nestling
