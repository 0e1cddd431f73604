#include "trainer/distill_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/core/host_view.h"
#include "kernels/core/span.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/sum.h"
#include "model/widths.h"

namespace nestling {

namespace {

// Columns of a size's row in the sums.
enum Column : uint8_t { kKl, kNll, kWeight, kTokens, kCost, kDraws, kColumns };

constexpr int64_t kMostSharedLogits = int64_t{1} << 24;  // floats: 64 MiB

double sum_of(ConstView x) {
  const Tensor host = on_host(x);
  return std::accumulate(host.ptr<float>(), host.ptr<float>() + host.size(), 0.0);
}

// The teacher's masters may go before there are gradients and moments.
Weights& started(Weights& student, const StudentStart& start, Weights& teacher,
                 TeacherMasters masters, Context& ctx) {
  student.take_masters(ctx, start.masters != nullptr ? *start.masters : teacher);
  if (masters == TeacherMasters::kDropped) teacher.drop_masters();
  student.take_gradients();
  return student;
}

}  // namespace

Comm* layers_shared_by(const RunConfig& config, Comm& comm) {
  return config.parallel.shard == "layers" ? &comm : nullptr;
}

TeacherMasters teacher_masters(const RunConfig& config) {
  return teacher_precision(config) == DType::kBF16 ? TeacherMasters::kDropped
                                                   : TeacherMasters::kKept;
}

DistillStep::DistillStep(const ElasticSpace& space, const RunConfig& config, Weights& teacher,
                         RouterTraining& router, Context& ctx, Comm& comm, TeacherMasters masters,
                         const StudentStart& start)
    : space_(space),
      config_(config),
      teacher_(teacher),
      router_(router),
      ctx_(ctx),
      comm_(comm),
      arena_(ctx.device(), {Pool::kActivations, "activations"}),
      student_(space.config, ctx.device(),
               {.compute = config.precision.compute_type(),
                .gradients = true,
                .gradients_later = true,
                .quantization = start.quantization,
                .layers_shared_by = layers_shared_by(config, comm)}),
      optimizer_(started(student_, start, teacher, masters, ctx), config.optimizer, comm),
      masks_(space, ctx.device()),
      device_sums_(ctx.device(), 2 * router.sizes() + 1) {
  for (int64_t s = 0; s < router.sizes(); ++s) loads_.emplace_back(space.config, ctx.device());
}

// Runs the teacher's forward and keeps what the losses of `students` sizes read: its final hidden states, from
// which every student's loss makes the logits again, chunk by chunk; or, where several students share them and
// they are small, the logits. These are made in the same chunks, so both give the same bits.
DistillStep::Teacher DistillStep::teach(const Batch& batch, int64_t students) {
  const Span span(ctx_, "teacher");
  const auto w = teacher_.params();
  const auto count = std::ssize(batch.tokens);
  const int64_t vocabulary = w.head.dim(0);
  const bool shared = students > 1 && count * vocabulary <= kMostSharedLogits;
  const View logits = shared ? arena_.alloc(DType::kF32, {count, vocabulary}) : View();
  const DType activations = teacher_activations(config_);
  const View x = arena_.alloc(activations, {count, space_.config.hidden});
  {
    const Arena::Mark forward(arena_);
    LayerRun run{.ctx = ctx_,
                 .arena = arena_,
                 .config = space_.config,
                 .segments = Segments(batch.cu_seqlens),
                 .save = false,
                 .activations = activations};
    copy(ctx_, x, model_forward(run, w, device_view(ctx_, arena_, batch.tokens)).final_norm.normed);
  }
  if (!shared) return {.x = x, .w = w.head, .logits = {}, .logit_scale = w.logit_scale};
  const int64_t chunk = loss_chunk(ctx_.code());
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    model_logits(ctx_, w, x.slice(0, begin, n), logits.slice(0, begin, n));
  }
  return {.logits = logits};
}

void DistillStep::train(LayerRun& run, const ModelParams<Weight>& w, const ModelParams<View>& g,
                        const Batch& batch, const Teacher& teacher, const DrawnSize& drawn,
                        double per_token) {
  run.fresh = std::exchange(fresh_, false);
  const ConstView tokens = device_view(ctx_, arena_, batch.tokens);
  const ModelActs acts = model_forward(run, w, tokens);
  const View normed = acts.final_norm.normed;
  const View nll = arena_.alloc(DType::kF32, {tokens.dim(0)});
  const View kl = arena_.alloc(DType::kF32, {tokens.dim(0)});
  const View dx = arena_.alloc(DType::kF32, {normed.dim(0), normed.dim(1)});
  const double weight = drawn.weight * per_token;
  head_loss(ctx_, {.nll = nll,
                   .kl = kl,
                   .dx = dx,
                   .dw = space_.config.tied ? g.embeddings : g.head,
                   .x = normed,
                   .w = w.head,
                   .targets = device_view(ctx_, arena_, batch.targets),
                   .teacher_x = teacher.x,
                   .teacher_w = teacher.w,
                   .teacher_logits = teacher.logits,
                   .ce_weight = static_cast<float>(config_.distill.ce_weight * weight),
                   .kl_weight = static_cast<float>(weight),
                   .temperature = static_cast<float>(config_.distill.temperature),
                   .logit_scale = w.logit_scale,
                   .teacher_logit_scale = teacher.logit_scale,
                   .chunk = loss_chunk(ctx_.code()),
                   .accumulate_dw = !run.fresh});
  add_sum(ctx_, {.total = device_sums_.at(2 * drawn.size), .x = kl});
  add_sum(ctx_, {.total = device_sums_.at(2 * drawn.size + 1), .x = nll});
  double* row = sums_.data() + drawn.size * kColumns;
  row[kTokens] += static_cast<double>(tokens.dim(0));
  row[kWeight] = weight;  // one a size and step
  model_backward(run, w, g, acts, tokens, dx);
  loads_[static_cast<size_t>(drawn.size)].add(ctx_, acts);
}

void DistillStep::train_masked(const Batch& batch, const Teacher& teacher, const DrawnSize& drawn,
                               double per_token, const DrawKey& key) {
  const Arena::Mark mark(arena_);
  const ModelMaskGrads gradients =
      masks_.grads(mask_gradients_.slice(0, std::ssize(draws_), 1).reshape({masks_.size()}));
  const double weight = drawn.weight * per_token * static_cast<double>(batch.tokens.size());
  draws_.push_back({drawn.size, weight, router_.draw(drawn.size, key)});
  masks_.set(ctx_, draws_.back().draw.used);
  LayerRun run{.ctx = ctx_,
               .arena = arena_,
               .config = space_.config,
               .segments = Segments(batch.cu_seqlens),
               .recompute = config_.parallel.recompute == "layer",
               .activations = config_.precision.activations_type(),
               .masks = &masks_.masks(),
               .mask_grads = &gradients};
  train(run, student_.params(), student_.grads(), batch, teacher, drawn, per_token);
}

void DistillStep::train_sliced(const Batch& batch, const Teacher& teacher, const DrawnSize& drawn,
                               double per_token) {
  const Arena::Mark mark(arena_);
  LayerRun run{.ctx = ctx_,
               .arena = arena_,
               .config = space_.config,
               .segments = Segments(batch.cu_seqlens),
               .recompute = config_.parallel.recompute == "layer",
               .activations = config_.precision.activations_type()};
  const Widths widths = router_.widths(drawn.size);
  train(run, prefix_parameters(space_.config, widths, student_.params()),
        prefix_parameters(space_.config, widths, student_.grads()), batch, teacher, drawn,
        per_token);
  double* row = sums_.data() + drawn.size * kColumns;
  const SizeBudget& budget = router_.budget(drawn.size);
  row[kCost] += (*budget.cost)(expected(widths)) / budget.allowed;
  row[kDraws] += 1;
}

void DistillStep::micro_batch(const Batch& batch, const std::vector<DrawnSize>& drawn,
                              double per_token, const DrawKey& key) {
  const Arena::Mark mark(arena_);
  const Teacher teacher = teach(batch, std::ssize(drawn));
  for (const DrawnSize& size : drawn) {
    if (router_.frozen())
      train_sliced(batch, teacher, size, per_token);
    else
      train_masked(batch, teacher, size, per_token, key);
  }
}

std::vector<MemoryPool> DistillStep::memory() const {
  const Weights::Bytes teacher = teacher_.allocated(), student = student_.allocated();
  return {{"teacher weights", teacher.masters, Pool::kWeights},
          {"teacher low copies", teacher.low, Pool::kWeights},
          {"masters", student.masters, Pool::kWeights},
          {"low copies", student.low, Pool::kWeights},
          {"codes", student.codes, Pool::kWeights},
          {"layer in hand", teacher.in_hand + student.in_hand, Pool::kWeights},
          {"gradients", student.gradients, Pool::kOptimizer},
          {"moments", optimizer_.moment_bytes(), Pool::kOptimizer},
          {"router", router_.allocated_bytes()},
          {"activations", arena_.peak_bytes(), Pool::kActivations},
          {"scratch", ctx_.scratch().peak_bytes(), Pool::kScratch}};
}

// The experts of a size: all of them while masks choose.
int64_t DistillStep::experts_of(int64_t size) const {
  const ModelConfig& config = space_.config;
  if (!router_.frozen()) return config.experts;
  const Widths widths = router_.widths(size);
  for (int64_t l = 0; l < config.layers(); ++l)
    if (config.kind(l) == LayerKind::kMoe) return width_of(widths, l, Axis::kExperts);
  return 0;
}

void DistillStep::rehearse(const std::function<void(DistillStep&)>& step) {
  Context ctx = Context::rehearsal_of(ctx_);
  Weights teacher = teacher_.extents();
  const Weights student = student_.extents();
  DistillStep twin(space_, config_, teacher, router_, ctx, comm_, TeacherMasters::kKept,
                   {.masters = &student, .quantization = student_.quantization()});
  step(twin);
  arena_.reserve(twin.arena_.peak_bytes());
  ctx_.scratch().reserve(ctx.scratch().peak_bytes());
}

// In a rehearsal: every size alone, which then makes the teacher's logits itself, and all together; and
// the most tokens whose logits they share. Under masks they are all of one size. The router is only read.
void DistillStep::largest_step(const StepShape& shape) {
  sums_.assign(static_cast<size_t>(router_.sizes() * kColumns + 2), 0.0);
  const Arena::Mark mark(arena_);
  const int64_t count = router_.frozen() ? router_.sizes() : config_.distill.sizes_per_micro_batch;
  const int64_t draws = std::max(shape.draws, count);
  if (!router_.frozen()) mask_gradients_ = arena_.alloc(DType::kF32, {draws, masks_.size()});
  const int64_t sharing = kMostSharedLogits / space_.config.vocab;
  std::vector<std::vector<DrawnSize>> drawn(1);
  for (int64_t s = 0; s < count; ++s) {
    drawn[0].push_back({s, 1.0});
    drawn.push_back({{s, 1.0}});
  }
  for (const int64_t tokens : {shape.tokens, std::min(shape.tokens, sharing)}) {
    if (tokens == 0) continue;
    const Batch batch =
        largest_batch({.tokens = tokens, .segments = std::min(shape.segments, tokens)});
    for (const std::vector<DrawnSize>& sizes : drawn) {
      draws_.clear();
      micro_batch(batch, sizes, 1.0, {.tokens = 0, .step = 0, .micro_step = 0});
    }
  }
  optimizer_.reduce_gradients(ctx_, device_sums_.at(2 * router_.sizes()));
  optimizer_.step(ctx_, 0.0, 1, 0.0);
}

void DistillStep::reserve(const std::vector<Batch>& micro_batches) {
  StepShape shape = shape_of(micro_batches);
  shape.sliced = router_.frozen();
  shape.draws = std::ssize(micro_batches) * config_.distill.sizes_per_micro_batch;
  if (ctx_.device() != Device::kCuda || reserved_.holds(shape)) return;
  reserved_ = joined(reserved_, shape);
  rehearse([&](DistillStep& twin) { twin.largest_step(reserved_); });
}

void DistillStep::evaluate(const Batch& batch, std::vector<HeldOutLoss>& sums) {
  if (ctx_.device() == Device::kCuda)
    rehearse([&](DistillStep& twin) {
      std::vector<HeldOutLoss> unread(sums.size());
      twin.evaluate(batch, unread);
    });
  const Arena::Mark mark(arena_);
  const ConstView tokens = device_view(ctx_, arena_, batch.tokens);
  LayerRun run{.ctx = ctx_,
               .arena = arena_,
               .config = space_.config,
               .segments = Segments(batch.cu_seqlens),
               .save = false,
               .activations = config_.precision.activations_type()};
  const Teacher teacher = teach(batch, router_.sizes());
  for (int64_t s = 0; s < router_.sizes(); ++s) {
    const Arena::Mark inner(arena_);
    const auto w =
        prefix_parameters(space_.config, router_.widths(s), student_.params(largest_inputs_));
    const View nll = arena_.alloc(DType::kF32, {tokens.dim(0)});
    const View kl = arena_.alloc(DType::kF32, {tokens.dim(0)});
    head_loss(ctx_, {.nll = nll,
                     .kl = kl,
                     .x = model_forward(run, w, tokens).final_norm.normed,
                     .w = w.head,
                     .targets = device_view(ctx_, arena_, batch.targets),
                     .teacher_x = teacher.x,
                     .teacher_w = teacher.w,
                     .teacher_logits = teacher.logits,
                     .logit_scale = w.logit_scale,
                     .teacher_logit_scale = teacher.logit_scale,
                     .chunk = loss_chunk(ctx_.code())});
    HeldOutLoss& total = sums.at(static_cast<size_t>(s));
    total.nll += sum_of(nll);
    total.targets += static_cast<double>(batch.counted_targets);
    total.kl += sum_of(kl);
    total.tokens += static_cast<double>(tokens.dim(0));
  }
}

// What the step left on the device, into the sums.
void DistillStep::collect_losses() {
  const std::vector<double> losses = device_sums_.values();
  for (int64_t s = 0; s < router_.sizes(); ++s) {
    double* row = sums_.data() + s * kColumns;
    row[kKl] = losses[static_cast<size_t>(2 * s)];
    row[kNll] = losses[static_cast<size_t>(2 * s + 1)];
    sums_[sums_.size() - 2] += row[kWeight] * (row[kKl] + config_.distill.ce_weight * row[kNll]);
  }
}

// The backward of every draw, in their order: gradients of its masks, its share of the budget loss.
void DistillStep::train_router(ConstView mask_gradients) {
  const Span span(ctx_, "router");
  for (size_t i = 0; i < draws_.size(); ++i) {
    const auto& [size, weight, draw] = draws_[i];
    Probabilities dp = draw.used;
    for (auto& axis : dp) std::fill(axis.begin(), axis.end(), 0.0);
    const ConstView row = mask_gradients.slice(0, static_cast<int64_t>(i), 1);
    masks_.backward(draw.used, row.reshape({masks_.size()}), dp);
    const BudgetLoss loss = router_.backward(size, draw, dp, weight);
    double* sums = sums_.data() + size * kColumns;
    sums[kCost] += loss.cost / router_.budget(size).allowed;
    sums[kDraws] += 1;
    sums_.back() += weight * loss.loss;
  }
}

void DistillStep::begin_step(bool whole) {
  {
    const Span span(ctx_, "zero gradients");
    if (whole)
      student_.zero_gradients_beside_products();
    else
      student_.zero_gradients();
  }
  fresh_ = whole;
  router_.zero_gradients();
  for (ExpertLoad& load : loads_) load.clear();
  device_sums_.clear();
  draws_.clear();
  sums_.assign(static_cast<size_t>(router_.sizes() * kColumns + 2), 0.0);
}

// Reads what the step left on the device, all at once, and sums it over the ranks.
DistillStep::Norms DistillStep::finish() {
  optimizer_.reduce_gradients(ctx_, device_sums_.at(2 * router_.sizes()));
  device_sums_.fetch(ctx_);
  for (ExpertLoad& load : loads_) load.fetch(ctx_);
  const View mask_gradients = draws_.empty() ? View() : fetch(ctx_, mask_gradients_);
  ctx_.synchronize();
  collect_losses();
  train_router(mask_gradients);
  comm_.all_reduce(ctx_, host_view(ctx_, sums_), Reduce::kSum);
  for (ExpertLoad& load : loads_) load.reduce(ctx_, comm_);
  return {.weights = device_sums_.values().back(),
          .router = router_.frozen() ? 0 : router_.reduce_gradients(ctx_, comm_)};
}

DistillResult DistillStep::run(const std::vector<Batch>& micro_batches,
                               const std::vector<double>& sampling, const DistillMoment& at) {
  NESTLING_CHECK(!micro_batches.empty(), "a step of no micro-batches");
  std::vector<double> counted(1, 0.0);
  for (const Batch& b : micro_batches) counted[0] += static_cast<double>(b.tokens.size());
  comm_.all_reduce(ctx_, host_view(ctx_, counted), Reduce::kSum);

  reserve(micro_batches);
  const Arena::Mark mark(arena_);
  std::vector<std::vector<DrawnSize>> drawn;
  int64_t draws = 0;
  for (int64_t i = 0; i < std::ssize(micro_batches); ++i) {
    drawn.push_back(
        draw_sizes(sampling, config_.distill.sizes_per_micro_batch, config_.seed, at.step, i));
    draws += std::ssize(drawn.back());
  }
  begin_step(!router_.frozen() ||
             router_.widths(drawn.at(0).at(0).size) == full_widths(space_.config));
  if (!router_.frozen()) {
    mask_gradients_ = arena_.alloc(DType::kF32, {draws, masks_.size()});
    fill_zero(ctx_, mask_gradients_);
  }
  for (size_t i = 0; i < micro_batches.size(); ++i)
    micro_batch(micro_batches[i], drawn[i], 1.0 / counted[0],
                {.tokens = at.tokens, .step = at.step, .micro_step = static_cast<int64_t>(i)});
  const Norms norms = finish();

  DistillResult result{.loss = sums_[sums_.size() - 2],
                       .budget = sums_.back(),
                       .grad_norm = norms.weights,
                       .router_grad_norm = norms.router,
                       .sizes = {}};
  for (int64_t s = 0; s < router_.sizes(); ++s) {
    const double* row = sums_.data() + s * kColumns;
    result.sizes.push_back(
        {.kl = row[kTokens] > 0 ? row[kKl] / row[kTokens] : 0,
         .tokens = row[kTokens],
         .cost = row[kDraws] > 0 ? row[kCost] / row[kDraws] : 0,
         .imbalance = loads_[static_cast<size_t>(s)].worst_imbalance(experts_of(s))});
  }
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.budget) ||
                   !std::isfinite(result.grad_norm) || !std::isfinite(result.router_grad_norm);
  if (result.skipped) return result;
  optimizer_.step(ctx_, at.lr, at.update, result.grad_norm);
  if (!router_.frozen()) router_.step(ctx_, at.update);
  return result;
}

}  // namespace nestling
