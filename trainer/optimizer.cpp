#include "trainer/optimizer.h"

#include "kernels/core/span.h"
#include "kernels/ops/adamw.h"

namespace nestling {

WeightsOptimizer::WeightsOptimizer(Weights& weights, const OptimizerConfig& config, Comm& comm)
    : weights_(weights),
      config_(config),
      comm_(comm),
      shards_(optimizer_shards(weights, comm.size())) {
  const Holder holder{Pool::kOptimizer, "moments"};
  m_ = Tensor(weights_.device(), DType::kF32, {own().count}, holder);
  v_ = Tensor(weights_.device(), DType::kF32, {own().count}, holder);
}

std::vector<View> WeightsOptimizer::pieces(View flat) const {
  std::vector<View> all;
  for (const OptimizerShard& shard : shards_)
    all.push_back(flat.slice(0, shard.begin, shard.count));
  return all;
}

void WeightsOptimizer::reduce_gradients(Context& ctx, View norm) {
  const Span span(ctx, "gradient norm");
  const auto mine = static_cast<size_t>(comm_.rank());
  const std::vector<View> gradients = pieces(weights_.flat_gradients());
  comm_.reduce_scatter(ctx, gradients[mine],
                       std::vector<ConstView>(gradients.begin(), gradients.end()), Reduce::kSum);

  const Arena::Mark mark(ctx.scratch());
  int64_t blocks = 0;
  for (const OptimizerShard& shard : shards_) blocks += shard.blocks;
  const View sums = ctx.scratch().alloc(DType::kF64, {blocks});
  std::vector<View> of_ranks;
  for (int64_t at = 0; const OptimizerShard& shard : shards_) {
    of_ranks.push_back(sums.slice(0, at, shard.blocks));
    at += shard.blocks;
  }
  std::vector<ConstView> runs;
  for (const ParameterRun& run : own().runs) {
    const View g = weights_.grad(run.parameter);
    runs.emplace_back(g.reshape({g.size()}).slice(0, run.begin, run.count));
  }
  square_sums(ctx, {.sums = of_ranks[mine], .grads = runs});
  comm_.all_gather(ctx, of_ranks, of_ranks[mine]);
  norm_of_sums(ctx, {.norm = norm, .sums = sums});
}

void WeightsOptimizer::step(Context& ctx, double lr, int64_t update, double grad_norm) {
  const Span span(ctx, "optimizer");
  const double scale =
      config_.clip > 0 && grad_norm > config_.clip ? config_.clip / grad_norm : 1.0;
  const bool alone = comm_.size() == 1;
  std::vector<AdamWTensor> tensors;
  for (const ParameterRun& run : own().runs) {
    const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(run.parameter)];
    const int64_t at = weights_.offset(run.parameter) + run.begin - own().begin;
    const auto part = [&](View v) {
      return v ? v.reshape({spec.size()}).slice(0, run.begin, run.count) : v;
    };
    tensors.push_back({.master = part(weights_.master(run.parameter)),
                       .m = m_.view().slice(0, at, run.count),
                       .v = v_.view().slice(0, at, run.count),
                       .grad = part(weights_.grad(run.parameter)),
                       .low = alone ? part(weights_.low(run.parameter)) : View(),
                       .lr = static_cast<float>(lr),
                       .decay = spec.decay ? static_cast<float>(config_.weight_decay) : 0.0f});
  }
  adamw_step(ctx, {.tensors = tensors,
                   .beta1 = static_cast<float>(config_.beta1),
                   .beta2 = static_cast<float>(config_.beta2),
                   .eps = static_cast<float>(config_.eps),
                   .step = update,
                   .grad_scale = static_cast<float>(scale)});
  if (alone) return weights_.refresh_codes(ctx);
  const std::vector<View> masters = pieces(weights_.flat_masters());
  comm_.all_gather(ctx, masters, masters[static_cast<size_t>(comm_.rank())]);
  weights_.refresh_low(ctx);
}

int64_t WeightsOptimizer::moment_bytes() const {
  return m_.allocated_bytes() + v_.allocated_bytes();
}

StatePart WeightsOptimizer::moments(Context& ctx, View shard, const char* suffix) {
  StatePart part;
  for (int64_t i = 0; i < weights_.count(); ++i) {
    const View there = weights_.grad(i);  // absent for a buffer
    if (there)
      part.tensors.push_back(
          {weights_.specs()[static_cast<size_t>(i)].name + suffix, there.reshape({there.size()})});
  }
  part.gather = [this, &ctx, shard] {
    comm_.all_gather(ctx, pieces(weights_.flat_gradients()), shard);
    ctx.synchronize();
  };
  part.spread = [this, shard] {
    copy(shard, weights_.flat_gradients().slice(0, own().begin, own().count));
  };
  return part;
}

TrainingState WeightsOptimizer::state(Context& ctx) {
  StatePart masters;
  for (int64_t i = 0; i < weights_.count(); ++i)
    masters.tensors.push_back({weights_.specs()[static_cast<size_t>(i)].name, weights_.master(i)});
  return {std::move(masters), moments(ctx, m_, "#m"), moments(ctx, v_, "#v")};
}

}  // namespace nestling
