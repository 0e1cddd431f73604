// Elastic distillation, one step at a time: masked and sliced, on one rank and on several, interrupted and
// not.
#include <cmath>
#include <gtest/gtest.h>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "tests/support/training_batch.h"
#include "tests/support/training_state.h"
#include "trainer/distill_step.h"

namespace nestling {
namespace {

using testing::bytes_of;
using testing::kSequences;
using testing::kVocab;
using testing::sequences;
using testing::world;

ModelConfig parent() {
  ModelConfig c = testing::tiny_config(kVocab);
  c.pattern = "ME*E";
  c.expert_ffn = 32;
  c.shared_ffn = 32;
  c.validate("parent");
  return c;
}

RunConfig settings(int64_t sizes_per_micro_batch, int64_t freeze_at) {
  RunConfig c;
  c.precision.compute = "fp32";
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.mamba_heads = {"100%", "50%"};
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.choices.expert_ffn = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"active_params", "55%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.1;
  c.router.freeze.at_tokens = freeze_at;
  c.curriculum = {
      {.name = "one", .seq_len = testing::kLength, .tokens = 4096, .global_batch_tokens = 96}};
  c.distill.sizes_per_micro_batch = sizes_per_micro_batch;
  return c;
}

// A run in small: everything that is saved and restored, and the steps.
struct SmallRun {
  RunConfig config;
  ElasticSpace space;
  Context ctx{Device::kCpu};
  Comm& comm;
  Weights teacher;
  RouterTraining router;
  DistillStep step;
  TrainingCounters at;

  SmallRun(const RunConfig& c, Comm& ranks)
      : config(c),
        space(make_space(parent(), written_choices(c.elastic.choices), kBlock, {})),
        comm(ranks),
        teacher(initialized()),
        router(space, config),
        step(space, config, teacher, router, ctx, comm) {}

  static Weights initialized() {
    Weights w(parent(), Device::kCpu, {});
    w.initialize(3);
    return w;
  }
  DistillResult advance() {
    const int64_t share = kSequences / comm.size();
    const DistillResult result =
        step.run({sequences(at.step, comm.rank() * share, share)},
                 sampling_weights(config.curriculum[0], config.elastic.sizes),
                 {.step = at.step, .update = at.step + 1, .tokens = at.tokens, .lr = 1e-3});
    at.step += 1;
    at.tokens += 96;
    router.settle(at.tokens);
    return result;
  }
  TrainingState state() {
    TrainingState all = step.state();
    for (const NamedState& tensor : router.state())
      all.push_back(whole_run(tensor, comm.rank() == 0));
    return all;
  }
};

TEST(Distill, TheWholeSizeStartsAsItsTeacher) {
  RunConfig c = settings(1, 0);
  c.curriculum[0].sampling = {{"full", "1"}};
  SmallRun run(c, world());
  run.router.freeze_now();
  const DistillResult result = run.advance();
  EXPECT_EQ(result.sizes[0].kl, 0.0);
  EXPECT_EQ(result.grad_norm, 0.0);
  EXPECT_EQ(result.sizes[1].tokens, 0.0);
  EXPECT_EQ(result.sizes[0].cost, 1.0);
}

TEST(Distill, SlicedSizesLearnTheirTeacher) {
  SmallRun run(settings(2, 0), world());
  run.router.freeze_now();
  const double first = run.advance().sizes[1].kl;
  double last = first;
  for (int i = 0; i < 40; ++i) last = run.advance().sizes[1].kl;
  EXPECT_GT(first, 0.0);
  EXPECT_LT(last, 0.7 * first);
}

TEST(Distill, TheRouterFindsTheBudgetUnderMasks) {
  SmallRun run(settings(2, 0), world());
  const DistillResult first = run.advance();
  DistillResult last;
  for (int i = 0; i < 60; ++i) last = run.advance();
  EXPECT_LT(std::abs(last.sizes[1].cost - 1.0), 0.5 * std::abs(first.sizes[1].cost - 1.0) + 0.1);
  EXPECT_GT(last.sizes[0].cost, 0.9);  // anchored to full width
}

TEST(Distill, DrawsOneSizeAMicroBatchAsOftenAsAsked) {
  RunConfig c = settings(1, 0);
  c.curriculum[0].sampling = {{"full", "1"}, {"half", "3"}};
  SmallRun run(c, world());
  int half = 0;
  constexpr int kSteps = 40;
  for (int i = 0; i < kSteps; ++i) {
    const DistillResult r = run.advance();
    EXPECT_TRUE((r.sizes[0].tokens > 0) != (r.sizes[1].tokens > 0));
    half += r.sizes[1].tokens > 0;
  }
  EXPECT_NEAR(half, 0.75 * kSteps, 4 * std::sqrt(kSteps * 0.75 * 0.25));
}

// Masked steps, the freeze at step 3, then slices.
TEST(Distill, RanksAgreeWithOne) {
  const auto self = make_self_comm();
  SmallRun alone(settings(2, 3 * 96), *self), together(settings(2, 3 * 96), world());
  for (int i = 0; i < 6; ++i) {
    const DistillResult a = alone.advance(), b = together.advance();
    // The sums over tokens are cut at other places: a few thousand roundings, random in sign.
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss + 1e-9) << i;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-3 * a.grad_norm + 1e-9) << i;
    EXPECT_NEAR(a.budget, b.budget, 1e-5 * a.budget + 1e-9) << i;
  }
  EXPECT_EQ(alone.router.selections(), together.router.selections());
  EXPECT_TRUE(together.router.frozen());
}

class DistillResume : public ::testing::TestWithParam<int> {};

TEST_P(DistillResume, GoesOnBitForBit) {
  const RunConfig c = settings(1, 5 * 96);
  SmallRun through(c, world()), first(c, world()), second(c, world());
  for (int i = 0; i < 9; ++i) through.advance();
  for (int i = 0; i < GetParam(); ++i) first.advance();
  testing::SavedOnce(first.state(), world()).load(second.state(), world());
  second.at = first.at;
  second.router.restored();
  for (int i = GetParam(); i < 9; ++i) second.advance();
  EXPECT_TRUE(bytes_of(through.state()) == bytes_of(second.state()));
}
INSTANTIATE_TEST_SUITE_P(Steps, DistillResume, ::testing::Values(2, 5, 7));

// Masked steps, the freeze at step 3, then slices.
TEST(Distill, RecomputeChangesNoBit) {
  const RunConfig c = settings(1, 3 * 96);
  RunConfig recomputed = c;
  recomputed.parallel.recompute = "layer";
  SmallRun keeps(c, world()), forgets(recomputed, world());
  for (int i = 0; i < 6; ++i) {
    const DistillResult a = keeps.advance(), b = forgets.advance();
    EXPECT_EQ(a.loss, b.loss) << i;
    for (size_t s = 0; s < a.sizes.size(); ++s)
      EXPECT_EQ(a.sizes[s].imbalance, b.sizes[s].imbalance) << i;
  }
  EXPECT_TRUE(keeps.router.frozen());
  EXPECT_TRUE(bytes_of(keeps.state()) == bytes_of(forgets.state()));
}

TEST(Distill, ANanSkipsTheStep) {
  SmallRun run(settings(2, 0), world());
  const auto before = bytes_of(run.state());
  run.teacher.master(1).ptr<float>()[0] = std::nanf("");
  const DistillResult result = run.step.run({sequences(0, 0, 1)}, {0.5, 0.5}, {.lr = 1e-3});
  EXPECT_TRUE(result.skipped);
  EXPECT_TRUE(bytes_of(run.state()) == before);
}

// Its weights are finite, and so are losses and the student's gradients, as no size reads them.
TEST(Distill, ARouterGradientThatIsNotFiniteSkipsTheStep) {
  RunConfig c = settings(2, 0);
  c.router.logit_scale = {1e6, 1e6};
  SmallRun run(c, world());
  for (const NamedState& s : run.router.state()) {
    if (s.name.ends_with("/first")) std::fill_n(s.view.ptr<float>(), s.view.size(), 3e38f);
    if (s.name.ends_with("/second")) fill_zero(s.view);
  }
  const auto before = bytes_of(run.state());
  const DistillResult result = run.step.run({sequences(0, 0, 1)}, {0.5, 0.5}, {.lr = 1e-3});
  EXPECT_TRUE(std::isfinite(result.loss) && std::isfinite(result.budget));
  EXPECT_TRUE(std::isfinite(result.grad_norm));
  EXPECT_FALSE(std::isfinite(result.router_grad_norm));
  EXPECT_TRUE(result.skipped);
  EXPECT_TRUE(bytes_of(run.state()) == before);
}

// A draw depends on its step and micro-step alone, so batches of other tokens weigh the same two draws.
TEST(Distill, ABudgetLossCountsByTheTokensOfItsMicroBatch) {
  RunConfig c = settings(2, 0);
  const auto self = make_self_comm();
  const auto budget = [&](std::vector<Batch> batches) {
    SmallRun run(c, *self);
    return run.step.run(batches, {0.5, 0.5}, {.lr = 0}).budget;
  };
  const Batch one = sequences(0, 0, 1), three = sequences(0, 1, 3);
  const double even = budget({one, one}), first = budget({one});
  const double second = 2 * even - first;
  ASSERT_GT(std::abs(first - second), 1e-3);
  EXPECT_NEAR(budget({one, three}), 0.25 * first + 0.75 * second, 1e-12);
  EXPECT_NEAR(budget({three, one}), 0.75 * first + 0.25 * second, 1e-12);
}

}  // namespace
}  // namespace nestling
