// What pretraining refuses before its first step.
#include "trainer/pretrain.h"

#include <fstream>
#include <gtest/gtest.h>

#include "data/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

PretrainConfig config_from(const testing::TempDir& dir, int64_t vocab) {
  const std::filesystem::path init = dir.path() / "init";
  std::filesystem::create_directories(init);
  testing::write_tiny_model(init, vocab, 3);
  PretrainConfig c;
  c.name = "run";
  c.output = dir.path() / "runs";
  c.init = init;
  c.tokenizer = testing::source_dir() / "data/tokenizers/tiny-reasoner";
  c.data.train = {{.path = "reasoning:addition:1-2:0-50"}};
  c.precision.compute = "fp32";
  c.seq_len = 40;
  c.global_batch_tokens = c.tokens = 80;
  return c;
}

void refused(const PretrainConfig& c, std::initializer_list<const char*> parts) {
  const auto comm = make_self_comm();
  testing::expect_error([&] { pretrain(c, *comm, ConfigChange::kRefused); }, parts);
}

TEST(Pretrain, RefusesATokenizerOfMoreTokensThanTheModel) {
  const testing::TempDir dir;
  refused(config_from(dir, 60),
          {"data/tokenizers/tiny-reasoner has ids up to 4095", "a vocab_size of 60"});
}

TEST(Pretrain, RefusesAValidationTextShorterThanAsked) {
  const testing::TempDir dir;
  PretrainConfig c = config_from(dir, 4096);
  c.data.validation = {{.path = "reasoning:addition:1:0-2:heldout"}};
  c.data.validation_tokens = 400;
  refused(c, {"reasoning:addition:1:0-2:heldout: has ", "validation_tokens asks for 400"});
}

// tiny-reasoner trained on for a few steps; validated after each.
struct Logged {
  std::vector<double> losses, accuracies, rates;
};
Logged train_on(double lr, int64_t tokens) {
  const testing::TempDir dir;
  PretrainConfig c;
  c.name = "on";
  c.output = dir.path() / "runs";
  c.init = testing::source_dir() / "data/parents/tiny-reasoner";
  c.tokenizer = c.init;
  c.data.train = {{.path = "reasoning:addition:1-2:0-50"}};
  c.data.validation = {{.path = "reasoning:sorting:1-1:0-50:heldout"}};
  c.data.validation_tokens = 160;
  c.precision.compute = "fp32";
  c.seq_len = 40;
  c.micro_batch = 2;
  c.global_batch_tokens = 80;
  c.tokens = tokens;
  c.moe.bias_rate = 0;
  c.optimizer.lr = lr;
  c.optimizer.warmup_tokens = 160;
  c.optimizer.schedule = "constant";
  c.log.every_steps = 1;
  c.log.validate_every_steps = 1;
  c.log.tensorboard = false;
  const auto comm = make_self_comm();
  EXPECT_EQ(pretrain(c, *comm, ConfigChange::kRefused), 0);
  std::ifstream log(dir.path() / "runs/on/log.jsonl");
  Logged all;
  const std::string text = "valid/" + log_name(c.data.validation[0]);
  for (std::string line; std::getline(log, line);) {
    const JsonDocument record = parse_json(line, "log");
    const JsonRef scalars = record.root().at("scalars");
    if (const JsonRef rate = scalars.find("lr")) all.rates.push_back(rate.number());
    const JsonRef loss = scalars.find(text + "/loss");
    if (!loss) continue;
    all.losses.push_back(loss.number());
    all.accuracies.push_back(scalars.at(text + "/accuracy").number());
  }
  return all;
}

// Steps that change next to nothing find the same text at every validation, and the parent mostly right on
// its solutions. A first step at half the rate does change something.
TEST(Pretrain, ValidatesTheSameTextAndLearnsFromTheFirstStep) {
  const Logged still = train_on(1e-12, 240), moved = train_on(1e-3, 80);
  ASSERT_EQ(still.losses.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(still.losses[i], still.losses[0], 1e-6 * still.losses[0]);
    EXPECT_GT(still.accuracies[i], 0.5);
    EXPECT_LE(still.accuracies[i], 1.0);
  }
  EXPECT_EQ(still.rates, (std::vector<double>{0.5e-12, 1e-12, 1e-12}));
  EXPECT_GT(std::abs(moved.losses.at(0) - still.losses[0]), 1e-3 * still.losses[0]);
}

}  // namespace
}  // namespace nestling
