// Sequences that join and leave a batch between steps: each says what it says alone.
#include "runtime/running_batch.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/rng.h"
#include "runtime/generator.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

constexpr int64_t kVocab = 48, kCapacity = 40;

using Tokens = std::vector<int32_t>;

struct TinyBatch {
  testing::TempDir dir;
  LoadedModel model;
  Context ctx;
  explicit TinyBatch(Device device = Device::kCpu)
      : model(write(dir), DType::kF32, "", device), ctx(device) {}

  static std::filesystem::path write(const testing::TempDir& dir) {
    testing::write_steep_model(dir.path(), kVocab, 33);
    return dir.path();
  }
};

Tokens prompt_of(int64_t n, uint64_t seed) {
  Rng rng(seed);
  Tokens prompt;
  for (int64_t i = 0; i < n; ++i) prompt.push_back(static_cast<int32_t>(rng.below(kVocab)));
  return prompt;
}

bool stays(const Sequence&) {
  return false;
}

class RunningBatchOn : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  }
};
INSTANTIATE_TEST_SUITE_P(All, RunningBatchOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

// Two rows and five sequences of one to nine tokens, greedy and drawn: those that wait join as soon
// as a row is free, so every one but the first two goes where others have left their states. A
// prompt of one token is shorter than the window of the convolutions.
TEST_P(RunningBatchOn, SequencesThatJoinSayWhatTheySayAlone) {
  TinyBatch tiny(GetParam());
  std::vector<GenerateOptions> options(5);
  std::vector<Tokens> prompts;
  std::vector<Sequence> all;
  for (size_t i = 0; i < options.size(); ++i) {
    options[i].max_new_tokens = 4 + 3 * static_cast<int64_t>(i);
    options[i].rule.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    options[i].seed = i;
    prompts.push_back(prompt_of(1 + static_cast<int64_t>(i * 5 % 9), 70 + i));
  }
  std::vector<Tokens> wanted;
  for (size_t i = 0; i < options.size(); ++i) {
    all.emplace_back(tiny.model, options[i], prompts[i], 0);
    wanted.push_back(generate(tiny.ctx, tiny.model, {prompts[i]}, options[i])[0].tokens);
  }
  RunningBatch batch(tiny.ctx, tiny.model, 2, kCapacity);
  size_t begun = 0;
  int64_t steps = 0;
  while (begun < all.size() || !batch.empty()) {
    std::vector<Sequence*> some;
    for (int64_t free = batch.free_rows(); free > 0 && begun < all.size(); --free)
      some.push_back(&all[begun++]);
    batch.join(some);
    batch.draw();
    batch.leave(stays);
    batch.step(stays);
    ++steps;
  }
  EXPECT_LT(steps, 4 + 7 + 10 + 13 + 16);  // two at once
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].finish().tokens, wanted[i]) << i;
}

// An error of what a sequence calls ends it alone.
TEST(RunningBatch, ASequenceThatFailsLeavesTheOthersAsTheyAre) {
  TinyBatch tiny;
  GenerateOptions fails, goes_on;
  fails.max_new_tokens = goes_on.max_new_tokens = 9;
  int64_t told = 0;
  fails.on_token = [&](size_t, int32_t token) {
    NESTLING_CHECK_INPUT(++told < 3, "no text for token ", token);
  };
  const Tokens prompts[] = {prompt_of(4, 8), prompt_of(6, 9)};
  const Tokens wanted = generate(tiny.ctx, tiny.model, {prompts[1]}, goes_on)[0].tokens;
  Sequence a(tiny.model, fails, prompts[0], 0), b(tiny.model, goes_on, prompts[1], 0);
  RunningBatch batch(tiny.ctx, tiny.model, 2, kCapacity);
  batch.join({&a, &b});
  while (!batch.empty()) {
    batch.draw();
    batch.leave(stays);
    batch.step(stays);
  }
  EXPECT_EQ(told, 3);
  EXPECT_EQ(b.finish().tokens, wanted);
  testing::expect_error([&] { a.finish(); }, {"no text for token"});
}

TEST(RunningBatch, MoreThanItHasRowsForAreRefused) {
  TinyBatch tiny;
  const GenerateOptions options;
  Sequence a(tiny.model, options, prompt_of(3, 1), 0), b(tiny.model, options, prompt_of(3, 2), 0);
  RunningBatch batch(tiny.ctx, tiny.model, 1, kCapacity);
  batch.join({&a});
  testing::expect_error([&] { batch.join({&b}); }, {"1 sequences join 1", "1 rows"},
                        ErrorKind::kRuntime);
}

// What is told of prompts and of tokens drawn is what one forward over all of it says.
TEST_P(RunningBatchOn, LogitsOfPromptsAndTokensAreThoseOfAForward) {
  TinyBatch tiny(GetParam()), reference;
  const Tokens prompt = prompt_of(7, 5);
  for (const int64_t more : {0, 6}) {
    GenerateOptions options;
    options.max_new_tokens = more;
    std::vector<float> told;
    bool drawn = false;
    options.on_prompt = [&](size_t i, int64_t first, ConstView logits) {
      EXPECT_EQ(i, 3u);
      EXPECT_EQ(first * kVocab, std::ssize(told));
      told.insert(told.end(), logits.ptr<float>(), logits.ptr<float>() + logits.size());
    };
    options.on_drawn = [&](size_t, int32_t, ConstView logits) {
      // The first is drawn from what is behind the prompt, which was told already.
      if (!drawn) told.resize(told.size() - kVocab);
      drawn = true;
      told.insert(told.end(), logits.ptr<float>(), logits.ptr<float>() + kVocab);
    };
    Sequence sequence(tiny.model, options, prompt, 3);
    RunningBatch batch(tiny.ctx, tiny.model, 2, kCapacity);
    EXPECT_FALSE(sequence.over());
    batch.join({&sequence});
    batch.leave(stays);
    while (!batch.empty()) {
      batch.draw();
      batch.leave(stays);
      batch.step(stays);
    }
    Tokens whole = prompt;
    const Tokens made = sequence.finish().tokens;
    ASSERT_EQ(std::ssize(made), more);
    if (more > 0) whole.insert(whole.end(), made.begin(), made.end() - 1);
    const Tensor want = testing::whole_logits(reference.model, whole);
    ASSERT_EQ(std::ssize(told), want.size());
    double largest = 0;
    for (int64_t k = 0; k < want.size(); ++k)
      largest = std::max(largest, std::abs(static_cast<double>(want.ptr<float>()[k])));
    // As between steps and a forward (decode_test.cpp): 1e-5 of the largest.
    for (int64_t k = 0; k < want.size(); ++k)
      ASSERT_NEAR(told[static_cast<size_t>(k)], want.ptr<float>()[k], 1e-5 * largest) << k;
  }
}

}  // namespace
}  // namespace nestling
