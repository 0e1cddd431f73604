// Held-out losses while a run goes on: what was asked for is scored, on any number of ranks.
#include "trainer/run/validation.h"

#include <gtest/gtest.h>

#include "data/shards.h"
#include "tests/support/expect_error.h"
#include "tests/support/ranks.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "tests/support/training_batch.h"

namespace nestling {
namespace {

using testing::kLength;
using testing::kVocab;
using testing::world;

constexpr int64_t kScored = 7;  // sequences: no multiple of ranks or micro-batches

// One document in random tokens, a shard in each rank's own folder.
void write_text(const std::filesystem::path& prefix, int64_t tokens) {
  Rng rng(5);
  std::vector<int32_t> text;
  for (int64_t t = 0; t < tokens; ++t) text.push_back(static_cast<int32_t>(rng.below(kVocab)));
  ShardWriter writer(prefix, 4096);
  writer.add(text);
  writer.finish();
}

RunConfig settings(const std::filesystem::path& dir) {
  RunConfig c;
  c.precision.compute = "fp32";
  c.data.validation = {{.path = dir / "text"}};
  c.data.validation_tokens = kScored * kLength;
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"active_params", "60%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.3;
  c.curriculum = {
      {.name = "one", .seq_len = kLength, .tokens = 4096, .global_batch_tokens = kLength}};
  c.evaluation.seq_len = kLength;
  return c;
}

struct SmallRun {
  RunConfig config;
  Comm& comm;
  ElasticSpace space;
  Context ctx{Device::kCpu};
  TrainingRun run;
  Weights teacher;
  RouterTraining router;
  DistillStep step;

  SmallRun(const RunConfig& c, const std::filesystem::path& dir, Comm& ranks)
      : config(c),
        comm(ranks),
        space(make_space(testing::tiny_config(kVocab), written_choices(c.elastic.choices), kBlock,
                         {})),
        run({.name = "run",
             .output = dir,
             .tokenizer = testing::source_dir() / "data/tokenizers/tiny-reasoner",
             .config = {},
             .checkpoint = {},
             .tensorboard = false},
            ranks, ConfigChange::kRefused),
        teacher(initialized()),
        router(space, config),
        step(space, config, teacher, router, ctx, ranks) {}

  static Weights initialized() {
    Weights w(testing::tiny_config(kVocab), Device::kCpu, {});
    w.initialize(3);
    return w;
  }
  std::map<std::string, double> measure(int64_t micro_batch) {
    config.parallel.micro_batch = micro_batch;
    return Validation(config, run).measure(step, ctx, comm);
  }
};

TEST(Validation, ScoresTheTokensAskedForOnAnyLayout) {
  const testing::TempDir dir;
  write_text(dir.path() / "text", (kScored + 6) * kLength);
  const RunConfig c = settings(dir.path());
  const auto self = make_self_comm();
  SmallRun alone(c, dir.path() / "alone", *self), together(c, dir.path() / "together", world());
  Batches text = alone.run.held_out(c.data.validation[0], kScored * kLength, kLength);
  std::vector<HeldOutLoss> sums(2);
  alone.step.evaluate(text.load(0, kScored), sums);
  const double loss = sums[1].nll / sums[1].targets, kl = sums[1].kl / sums[1].tokens;
  for (const int64_t micro_batch : {1, 2, 3, 16}) {
    for (SmallRun* run : {&alone, &together}) {
      const auto found = run->measure(micro_batch);
      // A product over another number of rows rounds differently: logits of order 1 in f32.
      EXPECT_NEAR(found.at("valid/text/half/loss"), loss, 1e-5 * loss) << micro_batch;
      EXPECT_NEAR(found.at("valid/text/half/kl"), kl, 1e-4 * kl) << micro_batch;
    }
  }
}

// As every other evaluation: the temperature is the training's.
TEST(Validation, KlIsThatOfTemperatureOne) {
  const testing::TempDir dir;
  write_text(dir.path() / "text", kScored * kLength);
  RunConfig c = settings(dir.path());
  const auto self = make_self_comm();
  const double kl = SmallRun(c, dir.path(), *self).measure(1).at("valid/text/half/kl");
  c.distill.temperature = 4;
  EXPECT_EQ(SmallRun(c, dir.path(), *self).measure(1).at("valid/text/half/kl"), kl);
}

TEST(Validation, RefusesATextShorterThanAsked) {
  const testing::TempDir dir;
  write_text(dir.path() / "text", kScored * kLength - 1);
  SmallRun run(settings(dir.path()), dir.path(), world());
  testing::expect_error([&] { run.measure(1); },
                        {"text: has 167 tokens, data.validation_tokens asks for 168"});
}

}  // namespace
}  // namespace nestling
