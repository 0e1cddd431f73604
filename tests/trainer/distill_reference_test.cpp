// One step of elastic distillation against the formulas of trainer/distill_step.h written out: every size of
// every micro-batch on its own, all its logits in memory, softmax and losses in double.
#include <cmath>
#include <gtest/gtest.h>
#include <map>

#include "kernels/core/host_view.h"
#include "kernels/ops/linear.h"
#include "model/router_record.h"
#include "model/widths.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "tests/support/training_batch.h"
#include "tests/support/training_state.h"
#include "trainer/distill_step.h"

namespace nestling {
namespace {

using testing::kLength;
using testing::kSequences;
using testing::kVocab;
using testing::sequences;
using testing::world;

constexpr int64_t kMicroBatches = 2;
constexpr double kLr = 1e-3;

ModelConfig parent() {
  ModelConfig c = testing::tiny_config(kVocab);
  c.pattern = "ME*E";
  c.expert_ffn = 32;
  c.validate("parent");
  return c;
}

RunConfig settings(int64_t sizes_per_micro_batch, Terms sampling) {
  RunConfig c;
  c.precision.compute = "fp32";
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.mamba_heads = {"100%", "50%"};
  c.elastic.choices.expert_ffn = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "most", .target = {{"total_params", "68%"}}},
                     {.name = "half", .target = {{"active_params", "55%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.1;
  c.router.loss_weight = 3;
  c.router.lr = 0.02;
  c.curriculum = {{.name = "one",
                   .seq_len = kLength,
                   .tokens = 4096,
                   .sampling = std::move(sampling),
                   .global_batch_tokens = kSequences * kLength}};
  c.distill.sizes_per_micro_batch = sizes_per_micro_batch;
  c.distill.temperature = 2;
  c.distill.ce_weight = 0.5;
  c.optimizer.weight_decay = 0.1;
  return c;
}

Weights initialized(bool gradients) {
  Weights w(parent(), Device::kCpu, {.gradients = gradients});
  w.initialize(3);
  return w;
}

// A student that its teacher has something to tell: it begins as another model.
struct ReferenceRun {
  RunConfig config;
  ElasticSpace space;
  Context ctx{Device::kCpu};
  Weights teacher = initialized(false);
  RouterTraining router;
  DistillStep step;

  explicit ReferenceRun(const RunConfig& c)
      : config(c),
        space(make_space(parent(), written_choices(c.elastic.choices), kBlock, {})),
        router(space, config),
        step(space, config, teacher, router, ctx, world()) {
    step.student().initialize(4);
  }
  std::vector<double> sampling() const {
    return sampling_weights(config.curriculum[0], config.elastic.sizes);
  }
  static std::vector<Batch> share() {
    const int64_t each = kSequences / kMicroBatches / world().size();
    std::vector<Batch> mine;
    for (int64_t i = 0; i < kMicroBatches; ++i)
      mine.push_back(sequences(0, (i * world().size() + world().rank()) * each, each));
    return mine;
  }
  DistillResult advance(const std::vector<Batch>& batches, int64_t at_step = 0, double lr = kLr) {
    return step.run(batches, sampling(), {.step = at_step, .update = 1, .tokens = 480, .lr = lr});
  }
};

std::vector<double> log_softmax(const float* x, double temperature) {
  std::vector<double> y(x, x + kVocab);
  double top = y[0], sum = 0;
  for (double& v : y) top = std::max(top, v /= temperature);
  for (const double v : y) sum += std::exp(v - top);
  for (double& v : y) v -= top + std::log(sum);
  return y;
}

Tensor logits_of(LayerRun& run, const ModelParams<Weight>& w, const ModelActs& acts) {
  Tensor logits(Device::kCpu, DType::kF32, {run.segments.tokens(), kVocab});
  model_logits(run.ctx, w, acts.final_norm.normed, logits.view());
  return logits;
}

struct LossSums {
  double kl = 0, nll = 0;
};

// The losses of one size on one batch; with g, the gradient of `per_token` (KL + ce_weight CE) too.
LossSums add_size(LayerRun run, const ModelParams<Weight>& w, const ModelParams<View>* g,
                  Weights& teacher, const Batch& batch, const DistillConfig& c, double per_token) {
  const ConstView tokens = host_view(batch.tokens);
  LayerRun teaching{.ctx = run.ctx,
                    .arena = run.arena,
                    .config = run.config,
                    .segments = run.segments,
                    .save = false};
  const ModelParams<Weight> parent_w = teacher.params();
  const Tensor theirs = logits_of(teaching, parent_w, model_forward(teaching, parent_w, tokens));
  const ModelActs acts = model_forward(run, w, tokens);
  const Tensor ours = logits_of(run, w, acts);
  Tensor slope(Device::kCpu, DType::kF32, {std::ssize(batch.tokens), kVocab});
  LossSums sum;
  for (int64_t t = 0; t < std::ssize(batch.tokens); ++t) {
    const float* x = ours.ptr<float>() + t * kVocab;
    const auto log_p = log_softmax(theirs.ptr<float>() + t * kVocab, c.temperature);
    const auto log_q = log_softmax(x, c.temperature), log_plain = log_softmax(x, 1);
    const int32_t target = batch.targets[static_cast<size_t>(t)];
    if (target >= 0) sum.nll -= log_plain[static_cast<size_t>(target)];
    for (size_t v = 0; v < kVocab; ++v) {
      const double p = std::exp(log_p[v]), q = std::exp(log_q[v]);
      sum.kl += p * (log_p[v] - log_q[v]);
      double d = (q - p) / c.temperature;
      if (target >= 0)
        d += c.ce_weight * (std::exp(log_plain[v]) - (static_cast<int32_t>(v) == target));
      slope.ptr<float>()[t * kVocab + static_cast<int64_t>(v)] = static_cast<float>(per_token * d);
    }
  }
  if (g == nullptr) return sum;
  const View normed = acts.final_norm.normed;
  const View dx = run.arena.alloc(DType::kF32, {normed.dim(0), normed.dim(1)});
  linear_backward(run.ctx, {.dx = dx, .dw = g->head, .dy = slope.view(), .x = normed, .w = w.head});
  model_backward(run, w, *g, acts, tokens, dx);
  return sum;
}

// What the step should come to, on the whole batch.
struct ReferenceStep {
  Weights student;  // as it was, with the gradients
  RecordedRouter router;
  std::map<int64_t, LossSums> sizes;
  double budget = 0, loss = 0;
};

// All sizes on all micro-batches of all ranks: under masks while the router learns, else as slices.
ReferenceStep reference_of(ReferenceRun& run) {
  ReferenceStep r{.student = Weights(parent(), Device::kCpu, {.gradients = true}),
                  .router = recorded_router(parent(), run.router.sizes(),
                                            record_router(run.router.router()), "reference"),
                  .sizes = {}};
  r.student.take_masters(run.ctx, run.step.student());
  r.student.zero_gradients();
  r.router.router.zero_gradients();
  const std::vector<double> weights = run.sampling();
  const double tokens = kSequences * kLength;
  Arena arena(Device::kCpu);
  SoftMasks masks(run.space, Device::kCpu);
  for (int64_t i = 0; i < kMicroBatches; ++i) {
    constexpr int64_t kEach = kSequences / kMicroBatches;
    const Batch batch = sequences(0, i * kEach, kEach);
    for (int64_t s = 0; s < run.router.sizes(); ++s) {
      const Arena::Mark mark(arena);
      const double weight = weights[static_cast<size_t>(s)];
      LayerRun layers{.ctx = run.ctx,
                      .arena = arena,
                      .config = run.space.config,
                      .segments = Segments(batch.cu_seqlens)};
      LossSums losses;
      if (run.router.frozen()) {
        const Widths widths = run.router.widths(s);
        const auto g = prefix_parameters(parent(), widths, r.student.grads());
        losses = add_size(layers, prefix_parameters(parent(), widths, r.student.params()), &g,
                          run.teacher, batch, run.config.distill, weight / tokens);
      } else {
        const RouterDraw draw = run.router.draw(s, {.tokens = 480, .step = 0, .micro_step = i});
        masks.set(run.ctx, draw.used);
        std::vector<float> flat(static_cast<size_t>(masks.size()));
        const ModelMaskGrads mask_grads = masks.grads(host_view(flat));
        layers.masks = &masks.masks();
        layers.mask_grads = &mask_grads;
        const auto g = r.student.grads();
        losses = add_size(layers, r.student.params(), &g, run.teacher, batch, run.config.distill,
                          weight / tokens);
        Probabilities dp = draw.used;
        for (auto& axis : dp) std::fill(axis.begin(), axis.end(), 0.0);
        masks.backward(draw.used, host_view(flat), dp);
        const double share = weight / kMicroBatches;
        const BudgetLoss budget =
            budget_loss(run.space, run.router.budget(s), run.config.router.dead_zone, draw.used,
                        share * run.config.router.loss_weight, dp);
        r.router.router.backward(draw, dp);
        r.budget += share * budget.loss;
      }
      r.sizes[s].kl += losses.kl / tokens;
      r.loss += weight * (losses.kl + run.config.distill.ce_weight * losses.nll) / tokens;
    }
  }
  return r;
}

double square_sum(ConstView v) {
  double sum = 0;
  for (int64_t i = 0; i < v.size(); ++i) sum += std::pow(double{v.ptr<float>()[i]}, 2);
  return sum;
}

// Moments and weights after AdamW's first update of gradients that are scaled by `scale`: m = (1 - beta1) g,
// and the weight has moved by lr (g / (|g| + eps) + decay w).
struct FirstUpdate {
  double scale, lr, decay;
};
void expect_updated(const std::string& name, const std::map<std::string, Tensor>& now,
                    ConstView before, ConstView gradient, const OptimizerConfig& o,
                    const FirstUpdate& u, double norm) {
  const Tensor &m = now.at(name + "#m"), &w = now.at(name);
  double error = 0;
  for (int64_t i = 0; i < m.size(); ++i) {
    const double g = m.ptr<float>()[i] / (1 - o.beta1);  // the step's own, scaled
    error += std::pow(g - u.scale * gradient.ptr<float>()[i], 2);
    const double was = before.ptr<float>()[i];
    const double moved = u.lr * (g / (std::abs(g) + o.eps) + u.decay * was);
    // The weight is rounded once to f32, moments and quotient a few times.
    const double bound = std::abs(was) * 1.2e-7 + u.lr * 2e-6;
    EXPECT_NEAR(w.ptr<float>()[i], was - moved, bound) << name << " " << i << ", gradient " << g;
    if (::testing::Test::HasFailure()) return;
  }
  // Sums over tokens cut at other places: some roundings of a tensor's own terms, which for a gradient
  // that nearly cancels are those of the whole.
  EXPECT_LE(std::sqrt(error), u.scale * (1e-4 * std::sqrt(square_sum(gradient)) + 1e-5 * norm))
      << name;
}

class StepReference : public ::testing::TestWithParam<bool> {};

TEST_P(StepReference, LossesGradientsAndUpdatesAreTheFormulas) {
  RunConfig config = settings(3, {{"full", "1"}, {"most", "2"}, {"half", "5"}});
  // Under masks the gradients are as they are, of slices they are clipped to a tenth.
  config.optimizer.clip = 1e6;
  ReferenceRun probe(config);
  const bool sliced = GetParam();
  if (sliced) {
    probe.router.freeze_now();
    config.optimizer.clip = 0.1 * probe.advance(ReferenceRun::share()).grad_norm;
  }
  ReferenceRun run(config);
  if (sliced) run.router.freeze_now();
  ReferenceStep want = reference_of(run);
  const DistillResult got = run.advance(ReferenceRun::share());

  EXPECT_NEAR(got.loss, want.loss, 1e-5 * want.loss);
  EXPECT_NEAR(got.budget, want.budget, 1e-9);
  EXPECT_TRUE(sliced || want.budget > 0.01);
  for (const auto& [s, losses] : want.sizes) {
    EXPECT_NEAR(got.sizes[static_cast<size_t>(s)].kl, losses.kl, 1e-5 * losses.kl) << s;
    EXPECT_EQ(got.sizes[static_cast<size_t>(s)].tokens, kSequences * kLength) << s;
  }
  double square = 0;
  for (int64_t i = 0; i < want.student.count(); ++i)
    if (const View g = want.student.grad(i)) square += square_sum(g.reshape({g.size()}));
  const double norm = std::sqrt(square);
  EXPECT_NEAR(got.grad_norm, norm, 1e-4 * norm);

  const auto student = testing::whole_tensors(run.step.state(), world());
  const double scale = sliced ? 0.1 : 1.0;
  for (int64_t i = 0; i < want.student.count(); ++i) {
    const ParameterSpec& spec = want.student.specs()[static_cast<size_t>(i)];
    const auto flat = [&](View v) { return v.reshape({spec.size()}); };
    if (!spec.trained) continue;
    expect_updated(spec.name, student, flat(want.student.master(i)), flat(want.student.grad(i)),
                   config.optimizer, {scale, kLr, spec.dims.size() > 1 && spec.decay ? 0.1 : 0.0},
                   norm);
  }
  TrainingState beside;
  for (const NamedState& tensor : run.router.state())
    beside.push_back(whole_run(tensor, world().rank() == 0));
  const auto router = testing::whole_tensors(std::move(beside), world());
  double router_square = 0;
  for (const auto& p : want.router.router.parameters())
    router_square += square_sum(p.grad.reshape({p.grad.size()}));
  for (const auto& p : want.router.router.parameters()) {
    const auto flat = [&](View v) { return v.reshape({v.size()}); };
    if (sliced)
      EXPECT_EQ(square_sum(router.at(p.name + "#m")), 0.0) << p.name;
    else
      expect_updated(p.name, router, flat(p.weight), flat(p.grad), config.optimizer,
                     {1.0, config.router.lr, 0.0}, std::sqrt(router_square));
  }
}
INSTANTIATE_TEST_SUITE_P(Modes, StepReference, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "sliced" : "masked"; });

// Of three sizes two, different ones, each for half of the loss.
TEST(DistillDraws, SizesOfAMicroBatchAreDifferentAndShareTheLoss) {
  RunConfig config = settings(2, {{"full", "1"}, {"most", "1"}, {"half", "6"}});
  config.distill.ce_weight = 0;
  ReferenceRun run(config);
  run.router.freeze_now();
  const std::vector<Batch> one = {ReferenceRun::share()[0]};
  const double tokens = static_cast<double>(one[0].tokens.size()) * world().size();
  for (int64_t step = 0; step < 8; ++step) {
    const DistillResult r = run.advance(one, step, 0.0);
    int drawn = 0;
    double sum = 0;
    for (const SizeLoss& s : r.sizes) {
      EXPECT_TRUE(s.tokens == 0 || s.tokens == tokens) << step;
      drawn += s.tokens > 0;
      sum += s.kl;
    }
    EXPECT_EQ(drawn, 2) << step;
    EXPECT_NEAR(r.loss, sum / 2, 1e-9) << step;  // f32 losses, summed alike, weighed in double
  }
}

TEST(DistillDraws, MicroBatchesOfAStepDrawEachTheirOwn) {
  ReferenceRun run(settings(1, {{"full", "1"}, {"most", "1"}, {"half", "1"}}));
  run.router.freeze_now();
  int64_t apart = 0;
  constexpr int64_t kSteps = 12;  // all alike by chance: 3^-12
  for (int64_t step = 0; step < kSteps; ++step) {
    int64_t drawn = 0;
    for (const SizeLoss& s : run.advance(ReferenceRun::share(), step, 0.0).sizes)
      drawn += s.tokens > 0;
    apart += drawn == 2;
  }
  EXPECT_GT(apart, 0);
}

// What a step of the whole left in the gradients is no part of a narrower one's.
TEST(DistillDraws, ANarrowStepDoesNotKeepTheGradientsBefore) {
  RunConfig whole = settings(1, {{"full", "1"}}), narrow = settings(1, {{"half", "1"}});
  ReferenceRun both(whole), alone(narrow);
  both.router.freeze_now();
  alone.router.freeze_now();
  both.advance(ReferenceRun::share(), 0, 0.0);
  both.config = narrow;
  const double after = both.advance(ReferenceRun::share(), 1, 0.0).grad_norm;
  EXPECT_EQ(after, alone.advance(ReferenceRun::share(), 1, 0.0).grad_norm);
}

TEST(DistillValidation, EverySizeIsMeasuredAsItWouldBeCut) {
  ReferenceRun run(settings(1, {{"full", "1"}, {"most", "1"}, {"half", "1"}}));
  run.router.freeze_now();
  const Batch batch = sequences(5, 0, 2);
  DistillConfig at_one = run.config.distill;  // whatever the training's temperature
  at_one.temperature = 1;
  std::vector<HeldOutLoss> sums(3);
  run.step.evaluate(batch, sums);
  run.step.evaluate(batch, sums);  // adds to them
  Arena arena(Device::kCpu);
  for (int64_t s = 0; s < 3; ++s) {
    LayerRun layers{.ctx = run.ctx,
                    .arena = arena,
                    .config = run.space.config,
                    .segments = Segments(batch.cu_seqlens)};
    const LossSums want = add_size(
        layers, prefix_parameters(parent(), run.router.widths(s), run.step.student().params()),
        nullptr, run.teacher, batch, at_one, 0);
    const HeldOutLoss& got = sums[static_cast<size_t>(s)];
    EXPECT_NEAR(got.kl, 2 * want.kl, 1e-5 * want.kl) << s;
    EXPECT_NEAR(got.nll, 2 * want.nll, 1e-5 * want.nll) << s;
    EXPECT_EQ(got.targets, 2 * static_cast<double>(batch.counted_targets)) << s;
    EXPECT_EQ(got.tokens, 2 * static_cast<double>(batch.tokens.size())) << s;
  }
}

}  // namespace
}  // namespace nestling
