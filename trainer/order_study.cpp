#include "trainer/order_study.h"

#include "kernels/core/rng.h"
#include "kernels/ops/loss.h"
#include "model/model.h"
#include "model/order.h"
#include "model/widths.h"

namespace nestling {

namespace {

Widths widths_of(const ModelConfig& config, const Order& order, const Cut& cut) {
  Widths widths = full_widths(config);
  if (cut.axis == Axis::kHidden) widths.hidden = cut.width;
  if (cut.axis == Axis::kLayers)
    for (auto rank = static_cast<size_t>(cut.width); rank < order.depth.size(); ++rank)
      widths.layers[static_cast<size_t>(order.depth[rank])].kept = 0;
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l)))
      if (axis == cut.axis) width_of(widths, l, axis) = cut.width;
  return widths;
}

// Calls fn(list) for every list of units.
template <class Fn>
void each_list(Scores& scores, const Fn& fn) {
  fn(scores.hidden);
  fn(scores.depth);
  for (auto& layer : scores.layers)
    for (auto& [axis, list] : layer) fn(list);
}

}  // namespace

OrderStudy::OrderStudy(Context& ctx, const ModelConfig& config, Weights& parent,
                       std::span<const Batch> held_out)
    : ctx_(ctx), config_(config), weights_(parent), held_out_(held_out), arena_(ctx.device()) {}

double OrderStudy::loss(const ModelParams<Weight>& w) {
  double sum = 0;
  int64_t count = 0;
  for (const Batch& batch : held_out_) {
    const Arena::Mark mark(arena_);
    const int64_t tokens = std::ssize(batch.tokens);
    const auto on_device = [&](const std::vector<int32_t>& values) {
      const View v = arena_.alloc(DType::kI32, {tokens});
      copy(v, ConstView(reinterpret_cast<const std::byte*>(values.data()), DType::kI32,
                        Device::kCpu, {tokens}));
      return v;
    };
    LayerRun run{.ctx = ctx_,
                 .arena = arena_,
                 .config = config_,
                 .segments = Segments(batch.cu_seqlens),
                 .save = false};
    const ModelActs acts = model_forward(run, w, on_device(batch.tokens));
    const View nll = arena_.alloc(DType::kF32, {tokens});
    head_loss(ctx_, {.nll = nll,
                     .x = acts.final_norm.normed,
                     .w = w.head,
                     .targets = on_device(batch.targets),
                     .logit_scale = w.logit_scale});
    ctx_.synchronize();
    Tensor host(Device::kCpu, DType::kF32, {tokens});
    copy(host.view(), nll);
    for (int64_t t = 0; t < tokens; ++t) sum += host.ptr<float>()[t];
    count += batch.counted_targets;
  }
  NESTLING_CHECK(count > 0, "order study: no held-out target");
  return sum / static_cast<double>(count);
}

double OrderStudy::parent_loss() {
  return loss(weights_.params());
}

std::vector<double> OrderStudy::losses(const Scores& scores, std::span<const Cut> cuts) {
  const Order order = order_from_scores(config_, scores);
  apply_order(config_, order, weights_);
  std::vector<double> losses;
  for (const Cut& cut : cuts)
    losses.push_back(
        loss(prefix_parameters(config_, widths_of(config_, order, cut), weights_.params())));
  apply_order(config_, inverse(config_, order), weights_);
  return losses;
}

Scores reversed(Scores scores) {
  each_list(scores, [](std::vector<double>& list) {
    for (double& s : list) s = -s;
  });
  return scores;
}

Scores random_scores(const ModelConfig& config, uint64_t seed) {
  const Order shape = identity_order(config);
  Scores scores;
  scores.hidden.resize(shape.hidden.size());
  scores.depth.resize(shape.depth.size());
  for (const auto& layer : shape.layers) {
    auto& fresh = scores.layers.emplace_back();
    for (const auto& [axis, list] : layer) fresh[axis].resize(list.size());
  }
  Rng rng(seed);
  each_list(scores, [&](std::vector<double>& list) {
    for (double& s : list) s = rng.uniform();
  });
  return scores;
}

}  // namespace nestling
