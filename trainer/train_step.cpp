#include "trainer/train_step.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/host_view.h"
#include "kernels/core/span.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/sum.h"

namespace nestling {

namespace {
enum Sum : uint8_t { kNll, kNorm, kSums };
}

TrainStep::TrainStep(const ModelConfig& model, const PretrainConfig& config, Context& ctx,
                     Comm& comm)
    : model_(model),
      config_(config),
      ctx_(ctx),
      comm_(comm),
      arena_(ctx.device(), {Pool::kActivations, "activations"}),
      weights_(model, ctx.device(),
               {.compute = config.precision.compute_type(),
                .gradients = true,
                .layers_shared_by = config.shard == "layers" ? &comm : nullptr}),
      optimizer_(weights_, config.optimizer, comm),
      load_(model, ctx.device()),
      sums_(ctx.device(), kSums) {
  for (int64_t i = 0; i < weights_.count(); ++i)
    if (!weights_.specs()[static_cast<size_t>(i)].trained) gate_bias_.push_back(i);
}

void TrainStep::accumulate(const Batch& batch, double weight, bool fresh) {
  const Arena::Mark mark(arena_);
  const auto w = weights_.params();
  const auto g = weights_.grads();
  LayerRun run{.ctx = ctx_,
               .arena = arena_,
               .config = model_,
               .segments = Segments(batch.cu_seqlens),
               .recompute = config_.recompute == "layer",
               .fresh = fresh,
               .activations = config_.precision.activations_type()};
  const ConstView tokens = device_view(ctx_, arena_, batch.tokens);
  const ModelActs acts = model_forward(run, w, tokens);
  const View normed = acts.final_norm.normed;
  const View nll = arena_.alloc(DType::kF32, {tokens.dim(0)});
  const View dx = arena_.alloc(DType::kF32, {normed.dim(0), normed.dim(1)});
  head_loss(ctx_, {.nll = nll,
                   .dx = dx,
                   .dw = model_.tied ? g.embeddings : g.head,
                   .x = normed,
                   .w = w.head,
                   .targets = device_view(ctx_, arena_, batch.targets),
                   .ce_weight = static_cast<float>(weight),
                   .logit_scale = w.logit_scale,
                   .chunk = loss_chunk(ctx_.code()),
                   .accumulate_dw = !fresh});
  add_sum(ctx_, {.total = sums_.at(kNll), .x = nll});
  model_backward(run, w, g, acts, tokens, dx);
  load_.add(ctx_, acts);
}

std::vector<MemoryPool> TrainStep::memory() const {
  const Weights::Bytes bytes = weights_.allocated();
  return {{"masters", bytes.masters, Pool::kWeights},
          {"low copies", bytes.low, Pool::kWeights},
          {"layer in hand", bytes.in_hand, Pool::kWeights},
          {"gradients", bytes.gradients, Pool::kOptimizer},
          {"moments", optimizer_.moment_bytes(), Pool::kOptimizer},
          {"activations", arena_.peak_bytes(), Pool::kActivations},
          {"scratch", ctx_.scratch().peak_bytes(), Pool::kScratch}};
}

void TrainStep::rehearse(const std::function<void(TrainStep&)>& step) {
  Context ctx = Context::rehearsal_of(ctx_);
  TrainStep twin(model_, config_, ctx, comm_);
  step(twin);
  arena_.reserve(twin.arena_.peak_bytes());
  ctx_.scratch().reserve(ctx.scratch().peak_bytes());
}

void TrainStep::reserve(const std::vector<Batch>& micro_batches) {
  const StepShape shape = shape_of(micro_batches);
  if (ctx_.device() != Device::kCuda || reserved_.holds(shape)) return;
  reserved_ = joined(reserved_, shape);
  rehearse([&](TrainStep& twin) {
    twin.accumulate(largest_batch(reserved_), 1.0, true);
    twin.optimizer_.reduce_gradients(twin.ctx_, twin.sums_.at(kNorm));
    twin.optimizer_.step(twin.ctx_, 0.0, 1, 0.0);
  });
}

LossSum TrainStep::evaluate(const Batch& batch) {
  if (ctx_.device() == Device::kCuda)
    rehearse([&](TrainStep& twin) { static_cast<void>(twin.evaluate(batch)); });
  const Arena::Mark mark(arena_);
  const auto w = weights_.params();
  LayerRun run{.ctx = ctx_,
               .arena = arena_,
               .config = model_,
               .segments = Segments(batch.cu_seqlens),
               .save = false,
               .activations = config_.precision.activations_type()};
  const ConstView tokens = device_view(ctx_, arena_, batch.tokens);
  const ModelActs acts = model_forward(run, w, tokens);
  const View nll = arena_.alloc(DType::kF32, {tokens.dim(0)});
  const View correct = arena_.alloc(DType::kI32, {tokens.dim(0)});
  head_loss(ctx_, {.nll = nll,
                   .correct = correct,
                   .x = acts.final_norm.normed,
                   .w = w.head,
                   .targets = device_view(ctx_, arena_, batch.targets),
                   .logit_scale = w.logit_scale,
                   .chunk = loss_chunk(ctx_.code())});
  const Tensor losses = on_host(nll), hits = on_host(correct);
  LossSum sum{.nll = 0, .targets = static_cast<double>(batch.counted_targets), .correct = 0};
  for (int64_t t = 0; t < tokens.dim(0); ++t) {
    sum.nll += losses.ptr<float>()[t];
    sum.correct += hits.ptr<int32_t>()[t];
  }
  return sum;
}

void TrainStep::balance_experts() {
  if (gate_bias_.empty()) return;  // of softmax gates, which have none
  const Span span(ctx_, "expert balance");
  std::vector<float> moves;  // of the bias, layer by layer
  for (size_t layer = 0; layer < gate_bias_.size(); ++layer) {
    const double* load = load_.of_layer(layer);
    double mean = 0;
    for (int64_t e = 0; e < model_.experts; ++e)
      mean += load[e] / static_cast<double>(model_.experts);
    for (int64_t e = 0; e < model_.experts; ++e) {
      const double direction = load[e] < mean ? 1.0 : (load[e] > mean ? -1.0 : 0.0);
      moves.push_back(static_cast<float>(config_.moe.bias_rate * direction));
    }
  }
  const Arena::Mark mark(arena_);
  const ConstView there = device_view(ctx_, arena_, moves);
  for (size_t layer = 0; layer < gate_bias_.size(); ++layer) {
    const View bias = weights_.master(gate_bias_[layer]);
    const auto first = static_cast<int64_t>(layer) * model_.experts;
    add(ctx_, bias, bias, there.slice(0, first, model_.experts));
  }
}

StepResult TrainStep::run(const std::vector<Batch>& micro_batches, double lr, int64_t update) {
  NESTLING_CHECK(!micro_batches.empty(), "a step of no micro-batches");
  std::vector<double> counted(1, 0.0);
  for (const Batch& b : micro_batches) counted[0] += static_cast<double>(b.counted_targets);
  comm_.all_reduce(ctx_, host_view(ctx_, counted), Reduce::kSum);
  const double targets = std::max(1.0, counted[0]);

  reserve(micro_batches);
  {
    const Span span(ctx_, "zero gradients");
    weights_.zero_gradients_beside_products();
  }
  load_.clear();
  sums_.clear();
  for (const Batch& b : micro_batches) accumulate(b, 1.0 / targets, &b == &micro_batches.front());

  optimizer_.reduce_gradients(ctx_, sums_.at(kNorm));
  sums_.fetch(ctx_);
  load_.fetch(ctx_);
  ctx_.synchronize();
  const std::vector<double> sums = sums_.values();
  std::vector<double> nll(1, sums[kNll]);
  comm_.all_reduce(ctx_, host_view(ctx_, nll), Reduce::kSum);
  load_.reduce(ctx_, comm_);

  StepResult result{.loss = nll[0] / targets,
                    .grad_norm = sums[kNorm],
                    .expert_imbalance = load_.worst_imbalance(model_.experts)};
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (result.skipped) return result;
  optimizer_.step(ctx_, lr, update, result.grad_norm);
  if (load_.counted()) balance_experts();
  return result;
}

}  // namespace nestling
