// One size thinks, another answers: each part is what its size alone says of the text before it.
#include "runtime/thinking.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "runtime/generator.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

using Tokens = std::vector<int32_t>;

constexpr int64_t kMost = 64;  // new tokens
const std::string kOpening =
    "<|im_start|>user\nWhat is 347 + 58?<|im_end|>\n<|im_start|>assistant\n";
const std::string kThinking = kOpening + "<think>\n";

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Tokens part(const Tokens& tokens, int64_t begin, int64_t end) {
  return {tokens.begin() + begin, tokens.begin() + end};
}

// One file for all tests of this program.
class Thinking : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(dir_->path() / "e.h5", StoredType::kF32);
    model_ = new LoadedModel(dir_->path() / "e.h5", DType::kF32);
  }
  static void TearDownTestSuite() {
    delete model_;
    delete dir_;
  }
  static LoadedModel& model() { return *model_; }
  static Tokens encode(const std::string& text) { return model().tokenizer().encode(text, false); }
  static std::string decode(const Tokens& tokens) { return model().tokenizer().decode(tokens); }
  static int32_t id(const char* token) { return *model().tokenizer().token_id(token); }

  static GenerateOptions options(const ThinkingControl& control = {}, int64_t most = kMost) {
    GenerateOptions o;
    o.max_new_tokens = most;
    o.stop_tokens = model().config().eos;
    o.control = control;
    return o;
  }
  static std::vector<Generated> all(const std::vector<Tokens>& prompts, const GenerateOptions& o) {
    Context ctx(Device::kCpu);
    return generate(ctx, model(), prompts, o);
  }
  static Generated one(const Tokens& prompt, const GenerateOptions& o) {
    return all({prompt}, o)[0];
  }
  // What a size says by itself.
  static Tokens plain(const std::string& size, const Tokens& prompt, int64_t most = kMost) {
    model().select(size);
    const Tokens tokens = one(prompt, options({}, most)).tokens;
    model().select("100%");
    return tokens;
  }
  // How many tokens until </think>, with it.
  static int64_t until_closed(const Tokens& tokens) {
    return std::find(tokens.begin(), tokens.end(), id("</think>")) - tokens.begin() + 1;
  }

  static inline TempDir* dir_ = nullptr;
  static inline LoadedModel* model_ = nullptr;
};

TEST_F(Thinking, OneSizeThinksUntilItClosesAndAnotherAnswers) {
  const Tokens prompt = encode(kThinking);
  const Generated made = one(prompt, options({.think = "100%", .answer = "50%"}));
  const Tokens thought = plain("100%", prompt);
  const int64_t closed = until_closed(thought);
  ASSERT_LT(closed, std::ssize(thought));
  EXPECT_EQ(part(made.tokens, 0, closed), part(thought, 0, closed));
  const Tokens before = prompt + part(thought, 0, closed);
  EXPECT_EQ(part(made.tokens, closed, std::ssize(made.tokens)),
            plain("50%", before, kMost - closed));
  EXPECT_NE(made.tokens, thought);
  EXPECT_EQ(made.thinking, closed - 1);
  EXPECT_EQ(made.again, std::ssize(before));
  EXPECT_EQ(model().size(), "100%");
}

TEST_F(Thinking, ABudgetClosesItAfterSoManyTokens) {
  const Tokens prompt = encode(kThinking);
  for (const char* think : {"50%", "100%"})
    for (const int64_t budget : {int64_t{0}, int64_t{1}, int64_t{6}}) {
      const Generated made =
          one(prompt, options({.think = think, .answer = "100%", .budget = budget}));
      const Tokens thought = plain(think, prompt, budget);
      ASSERT_EQ(std::ssize(thought), budget);
      // The prompt ends with a newline, and what was thought may.
      const Tokens closing =
          encode(decode(prompt + thought).ends_with('\n') ? "</think>\n" : "\n</think>\n");
      const Tokens begun = thought + closing;
      EXPECT_EQ(made.tokens, begun + plain("100%", prompt + begun, kMost - std::ssize(begun)))
          << think << " " << budget;
      EXPECT_EQ(made.thinking, budget);
      EXPECT_TRUE(made.stopped);
      const bool switched = budget > 0 && think != std::string("100%");
      EXPECT_EQ(made.again, switched ? std::ssize(prompt + begun) : 0);
    }
}

TEST_F(Thinking, ABudgetAloneIsOfTheSelectedSize) {
  const Tokens prompt = encode(kThinking);
  model().select("75%");
  const Generated alone = one(prompt, options({.budget = 9}));
  EXPECT_EQ(model().size(), "75%");
  model().select("100%");
  EXPECT_EQ(alone.tokens,
            one(prompt, options({.think = "75%", .answer = "75%", .budget = 9})).tokens);
  EXPECT_EQ(alone.again, 0);
  EXPECT_EQ(part(alone.tokens, 0, 9), plain("75%", prompt, 9));
}

TEST_F(Thinking, TheSameSizeOnBothSidesIsThatSize) {
  const std::vector<Tokens> prompts = {encode(kThinking), encode(kOpening), encode("12 + 9 =")};
  GenerateOptions o = options();
  for (const float temperature : {0.0f, 1.0f}) {
    o.rule.temperature = temperature;
    o.control = {};
    model().select("100%");
    const auto wanted = all(prompts, o);
    o.control = {.think = "100%", .answer = "100%", .budget = kMost + 1};
    model().select("50%");  // what is selected does not count
    const auto made = all(prompts, o);
    EXPECT_EQ(model().size(), "50%");
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(made[i].tokens, wanted[i].tokens);
      EXPECT_EQ(made[i].again, 0);
    }
  }
  model().select("100%");
}

// Sequences think for longer and shorter, or never, and answer together: each as it would alone.
TEST_F(Thinking, ManySequencesTakeTheirPartsTogether) {
  const auto turn = [](const std::string& question) {
    return "<|im_start|>user\n" + question + "<|im_end|>\n<|im_start|>assistant\n";
  };
  const std::vector<Tokens> prompts = {encode(turn("What is 347 + 58?") + "<think>\n"),
                                       encode(turn("What is 3+4?") + "<think></think>"),
                                       encode(turn("Sort the numbers 4, 1, 3.") + "<think>\n"),
                                       encode("347 + 58 ="),
                                       encode(turn("What is 12 + 9?") + "<think>\n4 + 4 = 8\n")};
  for (const float temperature : {0.0f, 0.7f}) {
    GenerateOptions o = options({.think = "100%", .answer = "75%", .budget = 30});
    o.rule.temperature = temperature;
    const auto together = all(prompts, o);
    std::vector<int64_t> thought;
    for (size_t i = 0; i < prompts.size(); ++i) {
      // Draws are of the place in the batch: others are there, of one token each.
      std::vector<Tokens> alone(i, encode("x"));
      alone.push_back(prompts[i]);
      EXPECT_EQ(together[i].tokens, all(alone, o)[i].tokens) << i;
      thought.push_back(together[i].thinking);
    }
    EXPECT_EQ(thought[1], 0);
    EXPECT_EQ(thought[3], 0);
    EXPECT_GT(thought[0], 0);
    EXPECT_GT(thought[4], 0);
    model().select("75%");
    o.control = {};
    const auto wanted = all(prompts, o);
    model().select("100%");
    for (const size_t never : {size_t{1}, size_t{3}}) {
      EXPECT_EQ(together[never].tokens, wanted[never].tokens);
      EXPECT_EQ(together[never].again, 0);
    }
  }
}

// Every token is as likely: the same draws would give the same tokens.
TEST_F(Thinking, BothPartsHaveDrawsOfTheirOwn) {
  GenerateOptions o = options({.think = "50%", .answer = "100%", .budget = 8}, 20);
  o.rule.temperature = 1e6f;
  o.stop_tokens = {};
  const Tokens tokens = one(encode(kThinking), o).tokens;
  const int64_t closed = until_closed(tokens) + 1;
  ASSERT_LE(closed + 8, std::ssize(tokens));
  EXPECT_NE(part(tokens, 0, 8), part(tokens, closed, closed + 8));
}

// The prompt does not open thinking, the text does: what comes before is of the size that answers.
TEST_F(Thinking, ATextThatOpensItLaterChangesSizeTwice) {
  const Tokens prompt = encode(kOpening);
  const Generated made = one(prompt, options({.think = "50%", .answer = "100%", .budget = 6}));
  const Tokens opened = plain("100%", prompt, 1);
  ASSERT_EQ(opened, Tokens{id("<think>")});
  const Tokens thought = plain("50%", prompt + opened, 6);
  const Tokens begun =
      opened + thought + encode(decode(thought).ends_with('\n') ? "</think>\n" : "\n</think>\n");
  EXPECT_EQ(made.tokens, begun + plain("100%", prompt + begun, kMost - std::ssize(begun)));
  EXPECT_EQ(made.again, 2 * std::ssize(prompt) + 1 + std::ssize(begun));
}

TEST_F(Thinking, LimitsAndStopTokensEndItAsEver) {
  const Tokens prompt = encode(kThinking);
  const ThinkingControl control = {.think = "50%", .answer = "100%", .budget = 5};
  const Tokens whole = one(prompt, options(control)).tokens;
  for (int64_t most = 0; most <= 9; ++most) {
    const Generated cut = one(prompt, options(control, most));
    EXPECT_EQ(cut.tokens, part(whole, 0, most));  // the closing tokens count too
    EXPECT_FALSE(cut.stopped);
  }
  GenerateOptions o = options(control);
  o.stop_tokens = {whole[2]};
  std::vector<int32_t> said;
  o.on_token = [&](size_t, int32_t token) { said.push_back(token); };
  const Generated stopped = one(prompt, o);
  EXPECT_TRUE(stopped.stopped);
  EXPECT_LE(std::ssize(stopped.tokens), 3);
  EXPECT_EQ(said, stopped.tokens);
  said.clear();
  o.stop_tokens = {};
  EXPECT_EQ(one(prompt, o).tokens, said);
}

// Another tokenizer on the same ids: of its tags none is a token.
TEST_F(Thinking, TagsOfSeveralTokensAreFound) {
  ElasticModel m = testing::tiny_reasoner_model();
  std::string& file = m.tokenizer["tokenizer.json"];
  for (const std::string tag : {"<think>", "</think>"})
    for (size_t at = file.find(tag); at != std::string::npos; at = file.find(tag))
      file.replace(at, tag.size(), std::string("<a_tag") + (tag.size() == 8 ? "/>" : ">"));
  Weights weights(m.config, Device::kCpu, {});
  import_weights(testing::tiny_reasoner(), m.config, weights);
  write_elastic(dir_->path() / "spelled.h5", m, weights, StoredType::kF32);
  LoadedModel spelled(dir_->path() / "spelled.h5", DType::kF32);
  const Tokenizer& tokenizer = spelled.tokenizer();
  ASSERT_GT(std::ssize(tokenizer.encode("</think>", false)), 1);

  const Tokens prompt = tokenizer.encode(kThinking, false);
  EXPECT_TRUE(within_thinking(tokenizer, prompt));
  Context ctx(Device::kCpu);
  const auto say = [&](const std::string& size, const Tokens& before, int64_t most) {
    spelled.select(size);
    return generate(ctx, spelled, {before}, options({}, most))[0].tokens;
  };
  for (const char* answer : {"100%", "75%"}) {
    const Tokens thought = say("75%", prompt, 7);
    const Tokens begun = thought + tokenizer.encode("\n</think>\n", false);
    const Generated made = generate(ctx, spelled, {prompt},
                                    options({.think = "75%", .answer = answer, .budget = 7}))[0];
    EXPECT_EQ(part(made.tokens, 0, std::ssize(begun)), begun);
    EXPECT_EQ(part(made.tokens, std::ssize(begun), std::ssize(made.tokens)),
              say(answer, prompt + begun, kMost - std::ssize(begun)));
  }
  // Spelled by the text itself, in as many tokens as it has letters.
  const ThinkingControl none;
  ThinkingMeter meter(tokenizer, none, prompt);
  int64_t pushed = 0, closed = 0;
  for (const char c : std::string("1 < 2</think>3")) {
    meter.push(tokenizer.encode(std::string(1, c), false)[0]);
    pushed += 1;
    if (!meter.thinking() && closed == 0) closed = pushed;
  }
  EXPECT_EQ(closed, std::ssize(std::string("1 < 2</think>")));
}

TEST_F(Thinking, ATextBeginsWithinItWhereItsLastTurnOpensIt) {
  const auto within = [](const std::string& text) {
    return within_thinking(model().tokenizer(), encode(text));
  };
  EXPECT_TRUE(within(kThinking));
  EXPECT_TRUE(within(kThinking + "7 + 8 = 15"));
  EXPECT_TRUE(within("as it is <think>"));
  EXPECT_FALSE(within(kOpening));
  EXPECT_FALSE(within(kOpening + "<think></think>"));
  EXPECT_FALSE(
      within("<|im_start|>user\nWhat does <think> mean?<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_FALSE(within("no tag"));
}

TEST_F(Thinking, ItIsClosedAsTheTemplateDoes) {
  EXPECT_EQ(closing_text(ChatTemplate(model().tokenizer_files(), "m")), "\n</think>\n");
  const auto closing = [](const std::string& assistant) {
    return closing_text(
        ChatTemplate({{"chat_template.jinja",
                       "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}" +
                           assistant + "{% endif %}{% endfor %}"}},
                     "m"));
  };
  EXPECT_EQ(closing("{{ '<think>' ~ m.reasoning_content ~ '</think>\\n\\n' ~ m.content }}"),
            "</think>\n\n");
  EXPECT_EQ(closing("{{ m.content }}"), kClosing);
  EXPECT_EQ(closing("{{ m.reasoning_content ~ '<answer>' ~ m.content }}"), kClosing);
}

TEST_F(Thinking, WhatDoesNotHoldIsRefused) {
  const Tokens prompt = encode(kThinking);
  model().select("75%");
  expect_error([&] { one(prompt, options({.think = "50%"})); }, {"'50%'", "''", "both are needed"});
  expect_error([&] { one(prompt, options({.answer = "50%"})); }, {"both are needed"});
  expect_error([&] { one(prompt, options({.think = "50%", .answer = "30B"})); },
               {"30B", "100%, 75%, 50%"});
  expect_error([&] { one(prompt, options({.budget = -1})); }, {"-1", "0 is the least"});
  GenerateOptions o = options({.think = "50%", .answer = "100%"});
  o.on_token = [](size_t, int32_t) { throw Error("enough", ErrorKind::kInput); };
  expect_error([&] { one(prompt, o); }, {"enough"});
  EXPECT_EQ(model().size(), "75%");
  model().select("100%");
}

}  // namespace
}  // namespace nestling
