#include "trainer/calibration.h"

#include <algorithm>

#include "kernels/core/host_view.h"
#include "trainer/depth_search.h"
#include "trainer/importance.h"

namespace nestling {

namespace {

// Mamba channels that heads are ranked by: those of the narrowest size; 0: all.
int64_t head_channels(const RunConfig& c, const ModelConfig& model) {
  std::vector<WrittenChoices> written;
  for (const WrittenChoices& w : written_choices(c.elastic.choices))
    if (w.axis == Axis::kMambaChannels) written.push_back(w);
  const ElasticSpace space = make_space(model, written, c.elastic.multiple_of, {});
  return space.axes.empty() ? 0 : space.axes.front().widths.back();
}

}  // namespace

CalibrationOptions calibration_options(const RunConfig& c, const ModelConfig& model) {
  const CalibrationConfig& text = c.data.calibration;
  const bool drops_layers = !c.elastic.choices.layers.empty();
  return {.samples = text.samples,
          .micro_batch = micro_batch_of(c, c.curriculum.front()),
          .depth_samples = drops_layers ? text.depth_samples : 0,
          .head_channels = head_channels(c, model),
          .activations = teacher_activations(c)};
}

namespace {

void check_options(const CalibrationOptions& o, int64_t ranks) {
  NESTLING_CHECK_INPUT(o.samples > 0 && o.micro_batch > 0, "calibration: samples ", o.samples,
                       ", micro_batch ", o.micro_batch, ": both must be positive");
  for (const int64_t n : {o.samples, o.depth_samples})
    NESTLING_CHECK_INPUT(n % ranks == 0, "calibration: ", n, " sequences on ", ranks,
                         " ranks; the nearest that divides is ",
                         std::max(ranks, (n + ranks / 2) / ranks * ranks));
  NESTLING_CHECK_INPUT(o.depth_samples >= 0 && o.depth_samples <= o.samples,
                       "calibration: depth_samples ", o.depth_samples, " of ", o.samples,
                       " samples");
}

// Calls fn(batch, sequences so far) for this rank's share of the first `count` sequences.
template <class Fn>
void each_batch(const LoadSequences& load, int64_t count, int64_t step, const Fn& fn) {
  for (int64_t at = 0; at < count; at += step) {
    const int64_t n = std::min(step, count - at);
    fn(load(at, n), at + n);
  }
}

}  // namespace

Scores run_importance(Context& ctx, Arena& arena, const ModelConfig& config,
                      const ModelParams<Weight>& w, const LoadSequences& load,
                      const CalibrationOptions& o, Comm& comm) {
  check_options(o, comm.size());
  Importance importance(ctx, config);
  const int64_t step = o.micro_batch * comm.size();
  each_batch(load, o.samples, step, [&](const Batch& batch, int64_t done) {
    const Arena::Mark mark(arena);
    LayerRun run{.ctx = ctx,
                 .arena = arena,
                 .config = config,
                 .segments = Segments(batch.cu_seqlens),
                 .activations = o.activations};
    const auto add = [&](size_t layer, const LayerActs& acts, ConstView output) {
      importance.add_layer(layer, acts, output, w, run.segments);
    };
    const ModelActs acts =
        model_forward(run, w, device_view(ctx, arena, batch.tokens), nullptr, add);
    importance.add_end(acts.final_norm, run.segments);
    ctx.synchronize();  // faults show here, and what is reported is done
    if (o.progress) o.progress(done, o.samples);
    if (o.between) o.between();
  });
  importance.all_reduce(comm);
  Scores scores = importance.scores(o.head_channels);
  if (o.depth_samples > 0) {
    std::vector<Batch> batches;
    each_batch(load, o.depth_samples, step,
               [&](Batch batch, int64_t) { batches.push_back(std::move(batch)); });
    scores.depth = search_depth(ctx, arena, config, w, batches, o.activations, comm, o.between);
  }
  return scores;
}

}  // namespace nestling
