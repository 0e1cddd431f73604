// Evaluation: losses by the plain forward, and the same figures on however many ranks.
#include "runtime/evaluate.h"

#include <cmath>
#include <fstream>
#include <gtest/gtest.h>

#include "data/reasoning.h"
#include "data/shards.h"
#include "runtime/generator.h"
#include "tests/support/expect_error.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

using testing::TempDir;
using testing::world;
using testing::write_tiny_reasoner;

struct Sums {
  double nll = 0, kl = 0;
  int64_t tokens = 0;
};

double log_sum_exp(const float* row, int64_t n) {
  const double top = *std::max_element(row, row + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(row[i] - top);
  return top + std::log(sum);
}

// Of one document by itself, in double from the float logits.
void add_document(Sums& sums, LoadedModel& model, LoadedModel& parent,
                  const std::vector<int32_t>& tokens) {
  const Tensor mine = testing::whole_logits(model, tokens);
  const Tensor wanted = testing::whole_logits(parent, tokens);
  const int64_t vocab = model.config().vocab;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    const float* q = mine.ptr<float>() + static_cast<int64_t>(t) * vocab;
    const float* p = wanted.ptr<float>() + static_cast<int64_t>(t) * vocab;
    const double log_q = log_sum_exp(q, vocab), log_p = log_sum_exp(p, vocab);
    sums.nll += log_q - q[tokens[t + 1]];
    for (int64_t i = 0; i < vocab; ++i) {
      const double log_pi = p[i] - log_p;
      sums.kl += std::exp(log_pi) * (log_pi - (q[i] - log_q));
    }
    sums.tokens += 1;
  }
}

const char* const kTexts[] = {"A boat left the harbour before the sun was up.", "347 + 58 = 405",
                              "What the mill ground was never only corn, said the miller."};

TEST(EvaluateText, IsTheMeanOverDocumentsThatDoNotSeeEachOther) {
  TempDir dir;
  std::ofstream file(dir.path() / "texts.jsonl");
  for (const char* text : kTexts) file << R"({"text": ")" << text << "\"}\n";
  file.close();
  LoadedModel model(write_tiny_reasoner(dir.path() / "e.h5", StoredType::kF32), DType::kF32, "75%");
  LoadedModel parent(testing::tiny_reasoner(), DType::kF32);
  Sums sums;
  for (const char* text : kTexts) {
    std::vector<int32_t> tokens = model.tokenizer().encode(text, false);
    tokens.push_back(static_cast<int32_t>(model.config().eos.front()));
    add_document(sums, model, parent, tokens);
  }
  Context ctx(Device::kCpu);
  ParentStates states(parent);
  const std::string texts = (dir.path() / "texts.jsonl").string();
  const TextLoss own =
      evaluate_text(ctx, world(), parent, texts,
                    {.seq_len = 1024, .max_tokens = 1024, .keep = &states, .parent = &states});
  EXPECT_EQ(own.kl, 0.0);
  EXPECT_NE(own.nll, 0.0);
  const TextLoss loss = evaluate_text(ctx, world(), model, texts,
                                      {.seq_len = 1024, .max_tokens = 1024, .parent = &states});
  ASSERT_EQ(loss.tokens, sums.tokens);
  EXPECT_EQ(loss.read, sums.tokens + std::ssize(kTexts));  // no target behind a document's last
  const auto n = static_cast<double>(sums.tokens);
  // Logits of single precision over 12 layers, whose products add in another order for other T.
  EXPECT_NEAR(loss.nll, sums.nll / n, 1e-5 * loss.nll);
  EXPECT_NEAR(loss.kl, sums.kl / n, 1e-4 * loss.kl);
  EXPECT_GT(loss.kl, 0.1);
}

// Two shards in a folder, tokenised as the text is, and one by its own name.
TEST(EvaluateText, TakesTokenShardsAsItTakesText) {
  TempDir dir;
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  const std::string file = dir.path() / "texts.jsonl";
  std::ofstream out(file);
  const auto end = static_cast<int32_t>(model.config().eos.front());
  for (const auto& [name, texts] : {std::pair{"a", 2}, {"b", 1}}) {
    ShardWriter shard(dir.path() / name, model.config().vocab);
    for (int i = 0; i < texts; ++i) {
      const char* text = kTexts[name[0] == 'a' ? i : 2];
      out << R"({"text": ")" << text << "\"}\n";
      std::vector<int32_t> tokens = model.tokenizer().encode(text, false);
      tokens.push_back(end);
      shard.add(tokens);
    }
    shard.finish();
  }
  out.close();
  Context ctx(Device::kCpu);
  const auto loss = [&](const std::string& spec, int64_t tokens) {
    return evaluate_text(ctx, world(), model, spec, {.seq_len = 16, .max_tokens = tokens});
  };
  for (const int64_t tokens : {int64_t{1024}, int64_t{20}}) {
    const TextLoss text = loss(file, tokens), shards = loss(dir.path(), tokens);
    EXPECT_EQ(text.nll, shards.nll);
    EXPECT_EQ(text.tokens, shards.tokens);
    EXPECT_EQ(text.read, shards.read);
    EXPECT_EQ(text.cut, shards.cut);
    EXPECT_EQ(text.cut, tokens == 20);
  }
  EXPECT_LT(loss(dir.path() / "b", 1024).read, loss(dir.path(), 1024).read);
}

// A window that holds all of the first document but its closing token leaves that one to the next window.
TEST(EvaluateText, CountsTheSameTargetsInWindowsOfAnyLength) {
  TempDir dir;
  const std::string file = dir.path() / "texts.jsonl";
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Sums sums;
  int64_t first = 0;
  std::ofstream out(file);
  for (const char* text : {kTexts[0], kTexts[1]}) {
    out << R"({"text": ")" << text << "\"}\n";
    std::vector<int32_t> tokens = model.tokenizer().encode(text, false);
    if (first == 0) first = std::ssize(tokens);
    tokens.push_back(static_cast<int32_t>(model.config().eos.front()));
    add_document(sums, model, model, tokens);
  }
  out.close();
  Context ctx(Device::kCpu);
  EXPECT_EQ(
      evaluate_text(ctx, world(), model, file, {.seq_len = 1024, .max_tokens = first - 2}).tokens,
      first - 3);
  for (int64_t seq_len = 1; seq_len <= sums.tokens + 2; ++seq_len) {
    const TextLoss loss =
        evaluate_text(ctx, world(), model, file, {.seq_len = seq_len, .max_tokens = 1024});
    EXPECT_EQ(loss.tokens, sums.tokens) << seq_len;
    if (seq_len != first) continue;
    EXPECT_NEAR(loss.nll, sums.nll / static_cast<double>(sums.tokens), 1e-5 * loss.nll);
  }
}

// Windows of another text, or of other tokens, were never the parent's.
TEST(EvaluateText, RefusesAParentThatReadOtherTokens) {
  TempDir dir;
  LoadedModel model(write_tiny_reasoner(dir.path() / "e.h5", StoredType::kF32), DType::kF32, "75%");
  LoadedModel parent(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  const auto self = make_self_comm();
  ParentStates states(parent);
  const std::string text = "reasoning:addition:1:0-20:heldout";
  TextLossOptions o{.seq_len = 64, .max_tokens = 128, .keep = &states};
  evaluate_text(ctx, *self, parent, text, o);
  o.keep = nullptr;
  o.parent = &states;
  EXPECT_GT(evaluate_text(ctx, *self, model, text, o).kl, 0);
  for (const int64_t seq_len : {32, 65}) {
    o.seq_len = seq_len;
    testing::expect_error(
        [&] { evaluate_text(ctx, *self, model, text, o); },
        {"tiny-reasoner reads reasoning:addition:1:0-20:heldout in other tokens than "
         "e.h5, from window 0 on"});
  }
}

// Windows and batches are more than ranks, and no multiple of them.
TEST(Evaluate, RanksShareTheWorkAndFindWhatOneFinds) {
  TempDir dir;
  LoadedModel model(write_tiny_reasoner(dir.path() / "e.h5", StoredType::kF32), DType::kF32, "75%");
  LoadedModel parent(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  const auto self = make_self_comm();
  const std::string text = "reasoning:all:1-4:0-40:heldout";
  const auto measured = [&](Comm& comm) {
    ParentStates states(parent);
    TextLossOptions o{.seq_len = 128, .max_tokens = 900, .keep = &states};
    evaluate_text(ctx, comm, parent, text, o);
    o.keep = nullptr;
    o.parent = &states;
    return evaluate_text(ctx, comm, model, text, o);
  };
  const TextLoss alone = measured(*self), shared = measured(world());
  EXPECT_EQ(shared.read, 900);
  const TextLossOptions other{.seq_len = 128, .max_tokens = 900, .seed = 42};
  EXPECT_NE(evaluate_text(ctx, world(), model, text, other).nll, shared.nll);
  EXPECT_EQ(alone.tokens, shared.tokens);
  EXPECT_NEAR(alone.nll, shared.nll, 1e-13 * alone.nll);
  EXPECT_NEAR(alone.kl, shared.kl, 1e-13 * alone.kl);

  const ReasoningOptions asked{
      .tasks = {"addition", "sorting"}, .problems = 22, .batch = 4, .max_new_tokens = 48};
  const auto one = evaluate_reasoning(ctx, *self, parent, asked);
  const auto all = evaluate_reasoning(ctx, world(), parent, asked);
  ASSERT_EQ(one.size(), 3u);
  ASSERT_EQ(all.size(), 3u);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].task, all[i].task);
    EXPECT_EQ(one[i].outcomes, all[i].outcomes) << one[i].task;
    EXPECT_EQ(one[i].tokens, all[i].tokens);
    EXPECT_EQ(all[i].n, std::ssize(all[i].outcomes));
  }
  EXPECT_GT(all.back().correct, 0);
}

// Tasks and levels in turn, of the problems that no training text holds.
TEST(EvaluateReasoning, AsksHeldOutProblemsOfEveryTaskAndLevel) {
  if (world().size() > 1) return;  // what several ranks find is in Evaluate
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  const std::vector<std::string> tasks = {"addition", "sorting"};
  GenerateOptions options;
  options.max_new_tokens = 24;
  options.stop_tokens = {*model.tokenizer().token_id("<|im_end|>")};
  const int64_t problems = 2 * reasoning::kLevels;
  std::vector<bool> outcomes;
  int64_t tokens = 0;
  for (int64_t i = 0; i < problems; ++i) {
    const int level = 1 + static_cast<int>(i / 2) % reasoning::kLevels;
    const reasoning::Problem problem =
        reasoning::generate(tasks[static_cast<size_t>(i % 2)], level, reasoning::Split::kHeldOut, 7,
                            static_cast<uint64_t>(i));
    const std::vector<int32_t> prompt =
        model.tokenizer().encode(reasoning::prompt_text(problem), false);
    const std::vector<int32_t> answer = generate(ctx, model, {prompt}, options)[0].tokens;
    outcomes.push_back(reasoning::score(problem, model.tokenizer().decode(answer)) != 0);
    tokens += std::ssize(answer);
  }
  const TaskAccuracy all =
      evaluate_reasoning(
          ctx, world(), model,
          {.tasks = tasks, .problems = problems, .batch = 4, .max_new_tokens = 24, .seed = 7})
          .back();
  EXPECT_EQ(all.outcomes, outcomes);
  EXPECT_EQ(all.tokens, tokens);
}

// Of problems, as of any prompts (thinking_test): and counted on any number of ranks.
TEST(EvaluateReasoning, OneSizeThinksAndAnotherAnswers) {
  TempDir dir;
  LoadedModel model(write_tiny_reasoner(dir.path() / "e.h5", StoredType::kF32), DType::kF32);
  Context ctx(Device::kCpu);
  const auto evaluate = [&](const ThinkingControl& control) {
    return evaluate_reasoning(ctx, world(), model,
                              {.tasks = {"addition"},
                               .problems = 7,
                               .batch = 2,
                               .max_new_tokens = 160,
                               .control = control})
        .back();
  };
  const TaskAccuracy plain = evaluate({});
  EXPECT_GT(plain.correct, 0);
  EXPECT_EQ(plain.thinking, 0);
  const TaskAccuracy same = evaluate({.think = "100%", .answer = "100%"});
  EXPECT_EQ(same.outcomes, plain.outcomes);
  EXPECT_EQ(same.tokens, plain.tokens);
  EXPECT_EQ(same.again, 0);
  EXPECT_GT(same.thinking, 0);
  const TaskAccuracy pair =
      evaluate({.think = "50%", .answer = "100%", .budget = 4, .closing = "not this"});
  int64_t prompts = 0;
  for (uint64_t i = 0; i < 7; ++i)
    prompts += std::ssize(model.tokenizer().encode(
        reasoning::prompt_text(reasoning::generate("addition", 1 + static_cast<int>(i) % 4,
                                                   reasoning::Split::kHeldOut, 1, i)),
        false));
  // Four of thinking each, a newline and the two that are always put.
  EXPECT_GE(pair.again, prompts + 7 * 6);
  EXPECT_LE(pair.again, prompts + 7 * 7);
  EXPECT_EQ(pair.thinking, 7 * 4);
  EXPECT_EQ(model.size(), "100%");
}

TEST(PairedDifference, IsTheFirstLessTheSecond) {
  TaskAccuracy good{.task = "addition", .n = 4, .outcomes = {true, true, true, false}};
  TaskAccuracy bad{.task = "addition", .n = 4, .outcomes = {true, false, false, false}};
  EXPECT_EQ(paired_difference(good, bad).estimate, 0.5);
  EXPECT_EQ(paired_difference(bad, good).estimate, -0.5);
}

}  // namespace
}  // namespace nestling
