// Conversations: caches kept from turn to turn give what the whole conversation run anew gives.
#include "runtime/chat.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <set>
#include <sstream>

#include "runtime/think_splitter.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

using testing::TempDir;
using testing::whole_logits;

// Every one of the last `count` tokens is the most likely one behind those before it, up to the roundings
// by which steps and a forward differ (tests/runtime/decode_test.cpp: 1e-5 of the largest logit).
void expect_most_likely(LoadedModel& model, const std::vector<int32_t>& tokens, int64_t count) {
  const Tensor logits = whole_logits(model, tokens);
  const int64_t vocab = model.config().vocab;
  for (auto t = std::ssize(tokens) - count; t < std::ssize(tokens); ++t) {
    const float* row = logits.ptr<float>() + (t - 1) * vocab;
    const float best = *std::max_element(row, row + vocab);
    float largest = 0;
    for (int64_t i = 0; i < vocab; ++i) largest = std::max(largest, std::abs(row[i]));
    EXPECT_NEAR(row[tokens[static_cast<size_t>(t)]], best, 1e-5f * largest) << "token " << t;
  }
}

constexpr const char* kTurns[] = {"What is 347 + 58?", "What is 12 + 9?", "What is 5 * 7?",
                                  "What is 21 + 4?", "What is 30 - 8?"};

TEST(Chat, TurnsInTheCachesAreTheConversationRunAnew) {
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 96});
  std::vector<ChatMessage> said;
  int64_t before = 0, by_steps = 0, anew = 0;
  for (const char* turn : kTurns) {
    const ChatReply reply = session.answer(turn);
    EXPECT_TRUE(reply.stopped) << turn;
    EXPECT_FALSE(reply.content.empty());
    EXPECT_FALSE(reply.thinking.empty());
    // What is new: this turn, and the last token of the answer before, which was not run yet.
    const int64_t now = std::ssize(session.tokens()) - reply.tokens;
    const int64_t pending = now - before + (before > 0 ? 1 : 0);
    const bool steps = pending * kForwardTokensAStep <= now;
    EXPECT_EQ(reply.again, before > 0 && !steps);
    EXPECT_EQ(reply.tokens_run, steps ? pending : now);
    if (before > 0) (steps ? by_steps : anew) += 1;
    before = std::ssize(session.tokens());
    expect_most_likely(model, session.tokens(), reply.tokens);
    // What was run is what the template says of the messages.
    said.push_back({.role = "user", .content = turn});
    const ChatTemplate written(model.tokenizer_files(), "tiny");
    const std::string asked = written.render(said, true);
    const std::string text = model.tokenizer().decode(session.tokens());
    EXPECT_TRUE(text.starts_with(asked)) << text;
    said.push_back({.role = "assistant", .content = reply.content, .reasoning = reply.thinking});
  }
  EXPECT_GT(by_steps, 0);
  EXPECT_GT(anew, 0);
}

TEST(Chat, AnotherSizeRunsTheConversationAgain) {
  const TempDir dir;
  testing::write_tiny_reasoner(dir.path() / "e.h5", StoredType::kBF16);
  LoadedModel model(dir.path() / "e.h5", DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 24});
  EXPECT_EQ(session.select("75%"), 0);
  session.answer(kTurns[0]);
  for (const char* size : {"50%", "85%", "100%"}) {
    const auto said = std::ssize(session.tokens());
    EXPECT_EQ(session.select(size), said);
    EXPECT_EQ(session.model().size(), size);
    const ChatReply reply = session.answer(kTurns[1]);
    expect_most_likely(model, session.tokens(), reply.tokens);
  }
  testing::expect_error([&] { session.select("30B"); }, {"30B", "100%, 75%, 50%"});
  EXPECT_EQ(session.model().size(), "100%");
}

// Of a turn's tokens, those within thinking are of one size, the others of another.
TEST(Chat, OneSizeThinksAndAnotherAnswers) {
  const TempDir dir;
  testing::write_tiny_reasoner(dir.path() / "e.h5", StoredType::kBF16);
  LoadedModel model(dir.path() / "e.h5", DType::kF32);
  Context ctx(Device::kCpu);
  // So long that a turn would be run by steps, did the size not change.
  std::string system;
  for (int i = 0; i < 40; ++i) system += "12 + 9 = 21. ";
  ChatSession session(ctx, model,
                      {.max_new_tokens = 48,
                       .control = {.think = "50%", .answer = "100%", .budget = 5},
                       .system = system});
  const int32_t id = *model.tokenizer().token_id("</think>");
  int64_t cut = 0;
  for (const char* turn : kTurns) {
    const bool first = session.tokens().empty();
    const ChatReply reply = session.answer(turn);
    const std::vector<int32_t> all = session.tokens();
    const int64_t asked = std::ssize(all) - reply.tokens;
    // Cut off after five tokens, and closed by "</think>\n"; or closed by itself.
    ASSERT_LE(reply.thinking_tokens, 5);
    const bool by_itself = reply.thinking_tokens < 5;
    const auto closed = std::find(all.begin() + asked, all.end(), id) - all.begin();
    const int64_t begun = closed + (by_itself ? 1 : 2);
    const int64_t drawn = reply.thinking_tokens + (by_itself ? 1 : 0);
    cut += by_itself ? 0 : 1;
    EXPECT_EQ(reply.again, !first);
    EXPECT_EQ(reply.tokens_run, asked);
    EXPECT_EQ(reply.tokens_switched, begun);
    EXPECT_EQ(model.size(), "100%");
    expect_most_likely(model, all, std::ssize(all) - begun);
    model.select("50%");
    expect_most_likely(model, {all.begin(), all.begin() + asked + drawn}, drawn);
    model.select("100%");
  }
  EXPECT_GT(cut, 0);
  testing::expect_error([&] { session.select("75%"); }, {"75%", "50% thinks and 100% answers"});
}

TEST(Chat, ABudgetOfNothingAnswersAtOnce) {
  const TempDir dir;
  testing::write_tiny_reasoner(dir.path() / "e.h5", StoredType::kBF16);
  LoadedModel model(dir.path() / "e.h5", DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(
      ctx, model,
      {.max_new_tokens = 24, .control = {.think = "50%", .answer = "100%", .budget = 0}});
  for (const char* turn : {kTurns[0], kTurns[1]}) {
    const ChatReply reply = session.answer(turn);
    EXPECT_EQ(reply.thinking, "");
    EXPECT_EQ(reply.tokens_switched, 0);
    EXPECT_EQ(model.size(), "100%");
    expect_most_likely(model, session.tokens(), reply.tokens - 2);  // all but "</think>\n"
  }
}

TEST(Chat, ABudgetClosesThinkingAndTheConversationGoesOn) {
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 48, .control = {.budget = 6}});
  for (const char* turn : {kTurns[0], kTurns[1], kTurns[2]}) {
    const std::vector<int32_t> before = session.tokens();
    const ChatReply reply = session.answer(turn);
    const std::vector<int32_t> all = session.tokens();
    EXPECT_EQ(reply.thinking_tokens, 6);
    EXPECT_EQ(reply.tokens_switched, 0);
    EXPECT_FALSE(reply.content.empty());
    EXPECT_TRUE(std::equal(before.begin(), before.end(), all.begin()));
    const std::vector<int32_t> made(all.end() - reply.tokens, all.end());
    const std::string text = model.tokenizer().decode(made);
    EXPECT_TRUE(text.starts_with(reply.thinking + "\n</think>\n" + reply.content)) << text;
    const auto closed =
        std::find(made.begin(), made.end(), *model.tokenizer().token_id("</think>"));
    expect_most_likely(model, all, made.end() - closed - 2);
  }
}

TEST(Chat, EveryTokenIsADrawOfItsOwn) {
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 12, .rule = {.temperature = 1000.0f}});
  const int64_t drawn = session.answer(kTurns[0]).tokens;
  ASSERT_GT(drawn, 6);
  const std::set<int32_t> different(session.tokens().end() - drawn, session.tokens().end());
  EXPECT_GT(std::ssize(different), drawn / 2);
}

// Cut off within its thinking, an answer is closed by the template and goes on.
TEST(Chat, AnAnswerCutOffIsClosedByTheTemplate) {
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 5});
  EXPECT_FALSE(session.answer(kTurns[0]).stopped);
  const ChatReply second = session.answer(kTurns[1]);
  expect_most_likely(model, session.tokens(), second.tokens);
}

TEST(Chat, ATemplateThatDropsThinkingMakesTheCachesAgain) {
  const TempDir dir;
  for (const auto& entry : std::filesystem::directory_iterator(testing::tiny_reasoner()))
    std::filesystem::copy_file(entry.path(), dir.path() / entry.path().filename());
  dir.write("chat_template.jinja",
            "{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ "
            "'<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n<think>\\n' }}");
  LoadedModel model(dir.path(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 96});
  EXPECT_FALSE(session.answer(kTurns[0]).thinking.empty());
  const ChatReply second = session.answer(kTurns[1]);
  EXPECT_TRUE(second.again);
  EXPECT_EQ(second.tokens_run, std::ssize(session.tokens()) - second.tokens);
  expect_most_likely(model, session.tokens(), second.tokens);
}

TEST(Chat, ATurnBeyondTheContextIsRefusedAndTheConversationStays) {
  LoadedModel model(testing::tiny_reasoner(), DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 8, .context = 128});
  session.answer(kTurns[0]);
  const std::vector<int32_t> before = session.tokens();
  testing::expect_error([&] { session.answer(std::string(400, '7')); }, {"the context is 128"});
  EXPECT_EQ(session.tokens(), before);
  EXPECT_GT(session.answer("1 + 1?").tokens, 0);
}

TEST(Chat, LinesOverStreams) {
  const TempDir dir;
  testing::write_tiny_reasoner(dir.path() / "e.h5", StoredType::kBF16);
  LoadedModel model(dir.path() / "e.h5", DType::kF32);
  Context ctx(Device::kCpu);
  ChatSession session(ctx, model, {.max_new_tokens = 96});
  std::istringstream in(
      "What is 12 + 9?\n\n/size 85%\n/size 3%\n/help\n/reset\n/size 100%\nWhat is 12 + "
      "9?\n/quit\nno\n");
  std::ostringstream out;
  chat(session, in, out, false);
  const std::string text = out.str();
  for (const char* part : {"[thinking]\n", "\n[answer]\n", "[size 85%, not trained by itself: ",
                           "reach from", "[/help is no command", "[the conversation begins anew]",
                           "[size 100%: 0 tokens of the conversation run again]"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  EXPECT_EQ(text.find("<think>"), std::string::npos) << text;
  EXPECT_EQ(text.find("</think>"), std::string::npos) << text;
  EXPECT_FALSE(text.starts_with("> ")) << text;
  // The same question of the same size, anew: the same answer, so the first block comes twice.
  const std::string first = text.substr(0, text.find("[size 85%"));
  EXPECT_TRUE(text.ends_with(first)) << text;
}

TEST(Chat, WithoutATemplateNothingIsMadeUp) {
  testing::expect_error([] { ChatTemplate({}, "m"); }, {"m", "chat_template.jinja"});
  testing::expect_error(
      [] {
        ChatTemplate({{"chat_template.jinja", "ab\xff"}}, "m");
      },
      {"m: chat_template.jinja: not UTF-8 at byte 2"});
  const ChatTemplate from_config(
      {{"tokenizer_config.json",
        R"({"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}{{ tools }}"})"}},
      "m");
  EXPECT_EQ(from_config.render({}, true), "<s>None");
  const ChatTemplate whole({{"chat_template.jinja", "{{ messages | tojson }}"}}, "m");
  EXPECT_EQ(whole.render({{.role = "assistant", .content = "4", .reasoning = "2 + 2"}}, true),
            R"([{"thinking": "2 + 2", "role": "assistant", "content": "4", )"
            R"("reasoning_content": "2 + 2"}])");
}

TEST(ThinkSplitter, FindsTagsThatComeInPieces) {
  const std::string text = "a < b</thin k</think>\nyes <think>no</think><th";
  const std::vector<std::pair<bool, std::string>> want = {
      {true, "a < b</thin k"}, {false, "\nyes "}, {true, "no"}, {false, "<th"}};
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    std::vector<std::pair<bool, std::string>> got;
    ThinkSplitter splitter(true, [&](bool thinking, const std::string& part) {
      if (got.empty() || got.back().first != thinking) got.emplace_back(thinking, "");
      got.back().second += part;
    });
    for (size_t at = 0; at < text.size(); at += piece) splitter.push(text.substr(at, piece));
    splitter.finish();
    EXPECT_EQ(got, want) << piece;
  }
}

}  // namespace
}  // namespace nestling
