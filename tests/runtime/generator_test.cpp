// Generation against the plain forward: greedy tokens are the arg max of the whole forward's logits.
#include "runtime/generator.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <set>

#include "kernels/core/rng.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

constexpr int64_t kVocab = 48;

struct TinyModel {
  testing::TempDir dir;
  LoadedModel model;
  TinyModel() : model(write(dir), DType::kF32) {}

  static std::filesystem::path write(const testing::TempDir& dir) {
    testing::write_steep_model(dir.path(), kVocab, 21);
    return dir.path();
  }
  // Logits of the last token of a sequence, by a forward over all of it.
  std::vector<float> last_logits(const std::vector<int32_t>& sequence) {
    const Tensor logits = testing::whole_logits(model, sequence);
    const float* last = logits.ptr<float>() + (std::ssize(sequence) - 1) * kVocab;
    return {last, last + kVocab};
  }
};

std::vector<std::vector<int32_t>> prompts() {
  Rng rng(8);
  std::vector<std::vector<int32_t>> all;
  for (int64_t n : {1, 9, 4}) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < n; ++i) prompt.push_back(static_cast<int32_t>(rng.below(kVocab)));
    all.push_back(prompt);
  }
  return all;
}

TEST(Generate, GreedyTokensMaximiseTheForwardsLogits) {
  TinyModel tiny;
  Context ctx(Device::kCpu);
  GenerateOptions options;
  options.max_new_tokens = 12;
  const auto asked = prompts();
  const std::vector<Generated> out = generate(ctx, tiny.model, asked, options);
  for (size_t i = 0; i < asked.size(); ++i) {
    ASSERT_EQ(out[i].tokens.size(), 12u);
    EXPECT_FALSE(out[i].stopped);
    std::vector<int32_t> sequence = asked[i];
    for (int32_t token : out[i].tokens) {
      const std::vector<float> logits = tiny.last_logits(sequence);
      const float best = *std::max_element(logits.begin(), logits.end());
      // The drawn token is the best up to the roundings by which a step and a forward differ.
      EXPECT_NEAR(logits[static_cast<size_t>(token)], best, 1e-5 * std::abs(best) + 1e-6);
      sequence.push_back(token);
    }
  }
}

TEST(Generate, StopsAtAStopTokenAndKeepsIt) {
  TinyModel tiny;
  Context ctx(Device::kCpu);
  GenerateOptions options;
  options.max_new_tokens = 12;
  const auto asked = prompts();
  const int32_t third = generate(ctx, tiny.model, asked, options)[1].tokens[2];
  options.stop_tokens = {third};
  const Generated stopped = generate(ctx, tiny.model, asked, options)[1];
  EXPECT_TRUE(stopped.stopped);
  EXPECT_LE(stopped.tokens.size(), 3u);
  EXPECT_EQ(stopped.tokens.back(), third);
}

TEST(Generate, SampledTokensRepeatForASeedWhateverTheBatch) {
  TinyModel tiny;
  Context ctx(Device::kCpu);
  GenerateOptions options;
  options.max_new_tokens = 10;
  options.rule.temperature = 1.0f;
  options.seed = 5;
  const auto asked = prompts();
  const auto together = generate(ctx, tiny.model, asked, options);
  EXPECT_EQ(generate(ctx, tiny.model, asked, options)[2].tokens, together[2].tokens);
  // Stream 0 alone: the same draws.
  EXPECT_EQ(generate(ctx, tiny.model, {asked[0]}, options)[0].tokens, together[0].tokens);
  options.seed = 6;
  EXPECT_NE(generate(ctx, tiny.model, asked, options)[0].tokens, together[0].tokens);
  options.rule.temperature = 1000.0f;  // every token is as likely: each is a draw of its own
  const auto drawn = generate(ctx, tiny.model, {asked[0]}, options)[0].tokens;
  EXPECT_GT(std::set<int32_t>(drawn.begin(), drawn.end()).size(), 3u);
}

// Sequences of other prompts that end earlier leave the batch; nothing of those that go on changes.
TEST(Generate, SequencesThatEndLeaveTheOthersAsTheyAre) {
  TinyModel tiny;
  Context ctx(Device::kCpu);
  GenerateOptions options;
  options.max_new_tokens = 12;
  const auto asked = prompts();
  const std::vector<Generated> whole = generate(ctx, tiny.model, asked, options);
  for (size_t ends = 0; ends < asked.size(); ++ends) {
    options.stop_tokens = {whole[ends].tokens[3]};
    const std::vector<Generated> out = generate(ctx, tiny.model, asked, options);
    for (size_t i = 0; i < asked.size(); ++i) {
      const auto& all = whole[i].tokens;
      const auto stop =
          std::find(all.begin(), all.end(), static_cast<int32_t>(options.stop_tokens[0]));
      const std::vector<int32_t> wanted(all.begin(), stop == all.end() ? stop : stop + 1);
      EXPECT_EQ(out[i].tokens, wanted) << "prompt " << i << ", stop " << ends;
      EXPECT_EQ(out[i].stopped, stop != all.end());
    }
  }
}

TEST(Generate, AnEmptyPromptIsAnInputError) {
  TinyModel tiny;
  Context ctx(Device::kCpu);
  EXPECT_THROW(generate(ctx, tiny.model, {{}}, GenerateOptions{}), Error);
}

}  // namespace
}  // namespace nestling
