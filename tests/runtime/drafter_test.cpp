// Drafts of a smaller size: the text is what it is without them, whatever they propose.
#include "runtime/drafter.h"

#include <gtest/gtest.h>

#include "runtime/generator.h"
#include "runtime/running_batch.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/temp_dir.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::TempDir;
using Tokens = std::vector<int32_t>;

constexpr int64_t kVocab = 48, kMost = 30, kCapacity = 48;
constexpr int64_t kSilent = 4;  // the layer that adds nothing

// Weights so large that what is said depends on all that was read; layer kSilent is all zeros.
Weights steep_weights(const ModelConfig& config) {
  Weights weights(config, Device::kCpu, {});
  weights.initialize(9);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    if (!spec.decay) continue;
    const View w = weights.master(i);
    for (int64_t k = 0; k < w.size(); ++k) w.ptr<float>()[k] *= spec.layer == kSilent ? 0 : 4;
  }
  return weights;
}

// "full", "twin" without the silent layer, which says the same, and "narrow", which says something else.
std::filesystem::path write_sizes(const TempDir& dir) {
  ElasticModel m;
  m.config = testing::quantizable_config("M*E-M");
  const auto size = [&](const char* name, const std::map<Axis, int64_t>& cut) {
    return testing::make_size(m.config, name, testing::cut_by(m.config, cut));
  };
  m.sizes = {size("full", {}), size("twin", {{Axis::kLayers, kSilent}}),
             size("narrow", {{Axis::kHidden, 48}, {Axis::kMambaHeads, 2}, {Axis::kExperts, 4}})};
  m.order = identity_order(m.config);
  std::rotate(m.order.depth.begin(), m.order.depth.end() - 1, m.order.depth.end());
  write_elastic(dir.path() / "e.h5", m, steep_weights(m.config), StoredType::kF32);
  return dir.path() / "e.h5";
}

class Drafts : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  }
};
INSTANTIATE_TEST_SUITE_P(All, Drafts, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

struct Opened {
  TempDir dir;
  LoadedModel model;
  Context ctx;
  explicit Opened(Device device = Device::kCpu)
      : model(write_sizes(dir), DType::kF32, "", device), ctx(device) {}

  std::vector<Generated> made(const std::vector<Tokens>& prompts, GenerateOptions options,
                              const DraftControl& draft) {
    options.draft = draft;
    return generate(ctx, model, prompts, options);
  }
};

std::vector<Tokens> prompts() {
  Rng rng(8);
  std::vector<Tokens> all;
  for (const int64_t n : {1, 9, 4}) {
    Tokens& prompt = all.emplace_back();
    for (int64_t i = 0; i < n; ++i) prompt.push_back(static_cast<int32_t>(rng.below(kVocab)));
  }
  return all;
}

GenerateOptions drawn_at(float temperature) {
  GenerateOptions options;
  options.max_new_tokens = kMost;
  options.rule.temperature = temperature;
  options.seed = 3;
  return options;
}

// Greedy and drawn, one sequence and several, drafts that are right and drafts that are not.
TEST_P(Drafts, LeaveTheTextAsItIs) {
  Opened o(GetParam());
  const auto asked = prompts();
  for (const float temperature : {0.0f, 0.7f}) {
    const auto wanted = o.made(asked, drawn_at(temperature), {});
    for (const int64_t tokens : {1, 2, 5})
      for (const char* size : {"narrow", "twin"}) {
        const DraftControl draft{.size = size, .tokens = tokens};
        const auto made = o.made(asked, drawn_at(temperature), draft);
        for (size_t i = 0; i < asked.size(); ++i) {
          EXPECT_EQ(made[i].tokens, wanted[i].tokens)
              << size << " " << tokens << " at " << temperature << ", prompt " << i;
          EXPECT_GT(made[i].drafted, 0);
          EXPECT_LE(made[i].agreed, made[i].drafted);
        }
        const auto alone = o.made({asked[0]}, drawn_at(temperature), draft);
        EXPECT_EQ(alone[0].tokens, wanted[0].tokens) << size << " " << tokens << " alone";
      }
  }
}

// Both are in the test above; here is how often.
TEST_P(Drafts, OfATwinAllStandAndOfAnotherSome) {
  Opened o(GetParam());
  const auto twin = o.made({prompts()[1]}, drawn_at(0.7f), {.size = "twin", .tokens = 5})[0];
  // The first token is drawn from the prompt's forward, then 6 a step: 29 are 4 steps of 6 and one of 5.
  EXPECT_EQ(twin.drafted, 4 * 5 + 4);
  EXPECT_EQ(twin.agreed, twin.drafted);
  const auto narrow = o.made({prompts()[1]}, drawn_at(0.7f), {.size = "narrow", .tokens = 5})[0];
  EXPECT_LT(narrow.agreed, narrow.drafted);
  EXPECT_EQ(twin.tokens, narrow.tokens);
}

// What the smaller size would draw behind every part of the text says how many of its drafts stand: after one that did
// not, it goes on from the text.
TEST_P(Drafts, AreWhatTheSmallerSizeDrawsBehindTheText) {
  Opened o(GetParam());
  for (const int64_t tokens : {1, 2, 4}) {
    const Tokens prompt = prompts()[2];
    const GenerateOptions options = drawn_at(0.7f);
    const Generated made = o.made({prompt}, options, {.size = "narrow", .tokens = tokens})[0];
    Decoder narrow(o.ctx, o.model, o.model.find("narrow").widths, 1, kCapacity);
    narrow.prefill({prompt});
    std::vector<bool> right;  // would it have drawn token i of the text
    for (size_t i = 0; i < made.tokens.size(); ++i) {
      const Draw draw{.rule = options.rule, .seed = options.seed, .stream = 0, .position = i};
      right.push_back(narrow.sample({&draw, 1})[0] == made.tokens[i]);
      narrow.step({&made.tokens[i], 1});
    }
    int64_t drafted = 0, agreed = 0;
    for (int64_t at = 1; at < kMost;) {  // tokens that there are when a step begins
      const int64_t count = std::min(tokens, kMost - at - 1);
      int64_t stand = 0;
      while (stand < count && right[static_cast<size_t>(at + stand)]) ++stand;
      drafted += std::max<int64_t>(count, 0);
      agreed += stand;
      at += stand + 1;
    }
    EXPECT_EQ(made.drafted, drafted) << tokens;
    EXPECT_EQ(made.agreed, agreed) << tokens;
    EXPECT_GT(agreed, 0);
    EXPECT_LT(agreed, drafted);
  }
}

TEST_P(Drafts, StopWhereTheTextStops) {
  Opened o(GetParam());
  const auto asked = prompts();
  const auto whole = o.made(asked, drawn_at(0), {});
  for (size_t place = 0; place < 12; ++place) {
    GenerateOptions options = drawn_at(0);
    options.stop_tokens = {whole[1].tokens[place]};
    const auto wanted = o.made(asked, options, {});
    const auto made = o.made(asked, options, {.size = "twin", .tokens = 4});
    for (size_t i = 0; i < asked.size(); ++i) {
      EXPECT_EQ(made[i].tokens, wanted[i].tokens) << place;
      EXPECT_EQ(made[i].stopped, wanted[i].stopped);
    }
  }
}

// Two rows and five sequences: those that join do so between the drafts of others, and one that leaves gives its row
// away in both sizes.
TEST_P(Drafts, OfSequencesThatJoinAndLeave) {
  Opened o(GetParam());
  std::vector<GenerateOptions> options(5);
  std::vector<Tokens> wanted, asked;
  std::vector<Sequence> all;
  for (size_t i = 0; i < options.size(); ++i) {
    options[i] = drawn_at(i % 2 == 0 ? 0.0f : 1.0f);
    options[i].max_new_tokens = 4 + 3 * static_cast<int64_t>(i);
    asked.push_back(prompts()[i % 3]);
    all.emplace_back(o.model, options[i], asked[i], 0);
    wanted.push_back(o.made({asked[i]}, options[i], {})[0].tokens);
  }
  for (const int64_t piece : {0, 3}) {
    std::vector<Sequence> run = all;
    RunningBatch batch(o.ctx, o.model, 2, kCapacity,
                       {.piece = piece, .draft = o.model.find("narrow"), .drafts = 3});
    const auto stays = [](const Sequence&) { return false; };
    size_t begun = 0;
    while (begun < run.size() || !batch.empty()) {
      std::vector<Sequence*> some;
      for (int64_t free = batch.free_rows(); free > 0 && begun < run.size(); --free)
        some.push_back(&run[begun++]);
      batch.join(some);
      batch.draw();
      batch.leave(stays);
      batch.step(stays);
    }
    for (size_t i = 0; i < run.size(); ++i)
      EXPECT_EQ(run[i].finish().tokens, wanted[i]) << i << " in pieces of " << piece;
  }
}

// What tokens are said to be drawn from is what one forward over all of it says.
TEST_P(Drafts, TellTheLogitsOfAForward) {
  Opened o(GetParam()), reference;
  const Tokens prompt = prompts()[1];
  GenerateOptions options = drawn_at(0.7f);
  std::vector<float> told;
  options.on_drawn = [&](size_t, int32_t, ConstView logits) {
    told.insert(told.end(), logits.ptr<float>(), logits.ptr<float>() + kVocab);
  };
  const Tokens made = o.made({prompt}, options, {.size = "narrow", .tokens = 3})[0].tokens;
  ASSERT_EQ(std::ssize(told), std::ssize(made) * kVocab);
  Tokens whole = prompt;
  whole.insert(whole.end(), made.begin(), made.end() - 1);
  const Tensor want = testing::whole_logits(reference.model, whole);
  const float* first = want.ptr<float>() + (std::ssize(prompt) - 1) * kVocab;
  float largest = 0;
  for (size_t i = 0; i < told.size(); ++i) largest = std::max(largest, std::abs(first[i]));
  for (size_t i = 0; i < told.size(); ++i) ASSERT_NEAR(told[i], first[i], 1e-4f * largest) << i;
}

TEST(DraftSize, ThatDoesNotFitIsRefused) {
  Opened o;
  const auto ask = [&](const std::string& runs, const DraftControl& draft) {
    o.model.select(runs);
    o.made({prompts()[0]}, drawn_at(0), draft);
  };
  expect_error([&] { ask("full", {.size = "nobody"}); }, {"no size 'nobody'"});
  expect_error([&] { ask("narrow", {.size = "full"}); }, {"drafts of size full", "size narrow"});
  expect_error([&] { ask("narrow", {.size = "narrow"}); }, {"which is what decides"});
  expect_error([&] { ask("full", {.size = "narrow", .tokens = 0}); }, {"drafts of 0 tokens"});
}

}  // namespace
}  // namespace nestling
