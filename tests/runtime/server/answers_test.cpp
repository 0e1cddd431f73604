// What the server answers is what a conversation, generate and a forward say.
#include <cmath>

#include "runtime/chat_session.h"
#include "runtime/generator.h"
#include "tests/support/running_server.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

using testing::RunningServer;
using Tokens = std::vector<int32_t>;
using std::chrono::milliseconds;

constexpr const char* kAsked[] = {"What is 347 + 58?", "What is 12 + 9?", "What is 5 * 7?"};

class Answers : public testing::ServerTest {
 protected:
  static std::vector<Generated> made(const std::string& size, const std::vector<Tokens>& prompts,
                                     GenerateOptions options) {
    Context ctx(Device::kCpu);
    options.stop_tokens = model().config().eos;
    model().select(size);
    return generate(ctx, model(), prompts, options);
  }
  // The text of what was generated: without the token that ends it.
  static std::string text_of(const Generated& g) {
    Tokens tokens = g.tokens;
    if (g.stopped) tokens.pop_back();
    return model().tokenizer().decode(tokens);
  }
};

TEST_F(Answers, AChatIsAConversationsAnswer) {
  const struct {
    const char* name;
    ThinkingControl control;
  } kModels[] = {{"100%", {}},
                 {"75%", {}},
                 {"50%>100%", {.think = "50%", .answer = "100%"}},
                 {"50%>100%", {.think = "50%", .answer = "100%", .budget = 5}},
                 {"100%", {.budget = 0}}};
  for (const auto& m : kModels)
    for (const char* user : {kAsked[0], kAsked[1]}) {
      Json asked = {
          {"model", m.name}, {"messages", messages(user)}, {"temperature", 0}, {"max_tokens", 64}};
      if (m.control.budget) asked["thinking_token_budget"] = *m.control.budget;
      const Json answer = server().chat(asked);
      Context ctx(Device::kCpu);
      model().select(m.control.has_sizes() ? "100%" : m.name);
      ChatSession session(ctx, model(), {.max_new_tokens = 64, .control = m.control});
      const ChatReply reply = session.answer(user);
      const Json& choice = answer["choices"][0];
      EXPECT_EQ(choice["message"]["content"], reply.content) << m.name;
      EXPECT_EQ(choice["message"].value("reasoning_content", ""), reply.thinking);
      EXPECT_EQ(choice["message"].value("reasoning", ""), reply.thinking);
      EXPECT_EQ(choice["finish_reason"], reply.stopped ? "stop" : "length");
      EXPECT_EQ(answer["model"], m.name);
      const Json& usage = answer["usage"];
      EXPECT_EQ(usage["completion_tokens"], reply.tokens);
      EXPECT_EQ(usage["prompt_tokens"], std::ssize(session.tokens()) - reply.tokens);
      EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], reply.thinking_tokens);
    }
}

TEST_F(Answers, AChatMayGoOnAndMayNotThink) {
  const Json said = {{{"role", "system"}, {"content", "Be brief."}},
                     {{"role", "user"}, {"content", {{{"type", "text"}, {"text", kAsked[0]}}}}},
                     {{"role", "assistant"},
                      {"content", "405"},
                      {"reasoning_content", "347+58=405"},
                      {"tool_calls", nullptr}},
                     {{"role", "user"}, {"content", kAsked[1]}}};
  const ChatTemplate written(model().tokenizer_files(), "tiny");
  const std::vector<ChatMessage> same = {{"system", "Be brief."},
                                         {"user", kAsked[0]},
                                         {"assistant", "405", "347+58=405"},
                                         {"user", kAsked[1]}};
  for (const bool thinks : {true, false}) {
    const Json answer = server().chat({{"messages", said},
                                       {"temperature", 0},
                                       {"max_completion_tokens", 12},
                                       {"chat_template_kwargs", {{"enable_thinking", thinks}}}});
    const Tokens prompt = encode(written.render(same, thinks));
    EXPECT_EQ(answer["usage"]["prompt_tokens"], std::ssize(prompt));
    const auto alone = made("100%", {prompt}, {.max_new_tokens = 12});
    const Json& message = answer["choices"][0]["message"];
    EXPECT_EQ(message.contains("reasoning_content"), thinks);
    if (!thinks) {
      EXPECT_EQ(message["content"], text_of(alone[0]));
    }
  }
}

TEST_F(Answers, CompletionsAreWhatGenerateSays) {
  const Tokens ids = encode("12 + 9 =");
  for (const float temperature : {0.0f, 1.0f, 1e6f}) {
    GenerateOptions options{.max_new_tokens = 10};
    options.rule = {.temperature = temperature, .top_k = 50, .top_p = 0.9f};
    options.seed = 7;
    const auto two = made("75%", {ids, ids}, options);
    for (const Json& prompt : {Json("12 + 9 ="), Json(ids), Json::array({"12 + 9 ="})}) {
      const Json answer = server().complete({{"model", "75%"},
                                             {"prompt", prompt},
                                             {"n", 2},
                                             {"temperature", temperature},
                                             {"top_k", 50},
                                             {"top_p", 0.9f},
                                             {"seed", 7},
                                             {"max_tokens", 10}});
      ASSERT_EQ(answer["choices"].size(), 2u);
      for (size_t k = 0; k < 2; ++k) {
        const Json& choice = answer["choices"][k];
        EXPECT_EQ(choice["index"], k);
        EXPECT_EQ(choice["text"], text_of(two[k])) << temperature;
        EXPECT_EQ(choice["finish_reason"], two[k].stopped ? "stop" : "length");
      }
      EXPECT_EQ(answer["usage"]["completion_tokens"],
                std::ssize(two[0].tokens) + std::ssize(two[1].tokens));
    }
  }
  // Without a seed two answers are two draws.
  const Json drawn =
      server().complete({{"prompt", {"1", "1"}}, {"temperature", 1e6}, {"max_tokens", 12}});
  EXPECT_NE(drawn["choices"][0]["text"], drawn["choices"][1]["text"]);
}

// As lm-eval's local-completions asks, and sums.
TEST_F(Answers, EchoedLogprobsAreTheLogSoftmaxOfAForward) {
  const std::vector<Tokens> prompts = {encode("12 + 9 = 21"), encode("日本 is far"), encode("a")};
  for (const char* size : {"100%", "50%"})
    for (const int64_t more : {0, 1, 3}) {
      const Json answer = server().complete({{"model", size},
                                             {"prompt", prompts},
                                             {"temperature", 0},
                                             {"max_tokens", more},
                                             {"logprobs", 2},
                                             {"seed", 1234},
                                             {"echo", true}});
      ASSERT_EQ(answer["choices"].size(), prompts.size());
      model().select(size);
      for (size_t i = 0; i < prompts.size(); ++i) {
        const Json& told = answer["choices"][i]["logprobs"];
        const std::string text = answer["choices"][i]["text"];
        EXPECT_TRUE(text.starts_with(model().tokenizer().decode(prompts[i])));
        Tokens all = prompts[i];
        const Tokens new_tokens = made(size, {prompts[i]}, {.max_new_tokens = more})[0].tokens;
        all.insert(all.end(), new_tokens.begin(), new_tokens.end());
        ASSERT_EQ(told["token_logprobs"].size(), all.size());
        ASSERT_EQ(told["tokens"].size(), all.size());
        ASSERT_EQ(told["text_offset"].size(), all.size());
        EXPECT_TRUE(told["token_logprobs"][0].is_null());
        EXPECT_TRUE(told["top_logprobs"][0].is_null());
        const Tensor logits = testing::whole_logits(model(), all);
        const int64_t V = model().config().vocab;
        for (size_t t = 1; t < all.size(); ++t) {
          const float* row = logits.ptr<float>() + static_cast<int64_t>(t - 1) * V;
          double sum = 0, largest = 0;
          for (int64_t v = 0; v < V; ++v) {
            sum += std::exp(static_cast<double>(row[v]));
            largest = std::max(largest, std::abs(static_cast<double>(row[v])));
          }
          // Steps and a forward differ by 1e-5 of the largest logit (decode_test.cpp); twice in a
          // difference.
          const double bound = 2e-5 * largest;
          const double got = told["token_logprobs"][t];
          EXPECT_NEAR(got, row[all[t]] - std::log(sum), bound);
          const float* best = std::max_element(row, row + V);
          double top = -INFINITY;
          for (const auto& value : told["top_logprobs"][t])
            top = std::max(top, value.get<double>());
          EXPECT_NEAR(top, *best - std::log(sum), bound);
          // Its being the most likely is an equality of what is printed.
          if (best - row == all[t]) {
            EXPECT_EQ(top, got);
          }
          const size_t n = told["top_logprobs"][t].size();
          EXPECT_TRUE(n == 2 || n == 3) << n;
        }
      }
    }
}

TEST_F(Answers, LogprobsOfAChatAreOfItsTokens) {
  const Json answer = server().chat({{"messages", messages(kAsked[0])},
                                     {"temperature", 0},
                                     {"max_tokens", 8},
                                     {"logprobs", true},
                                     {"top_logprobs", 1}});
  const Json& content = answer["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), answer["usage"]["completion_tokens"]);
  std::string text;
  for (const Json& token : content) {
    EXPECT_EQ(token["logprob"], token["top_logprobs"][0]["logprob"]);  // greedy
    EXPECT_EQ(token["token"], token["top_logprobs"][0]["token"]);
    for (const Json& byte : token["bytes"]) text += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(text, answer["choices"][0]["message"]["reasoning_content"]);
}

// Streamed, an answer is the same, also where characters come in pieces (most tokens of a draw from
// all are bytes or parts of words).
TEST_F(Answers, StreamsAreTheWholeAnswerInPieces) {
  for (const float temperature : {0.0f, 1e6f}) {
    const Json asked = {{"messages", messages(kAsked[2])},
                        {"temperature", temperature},
                        {"seed", 3},
                        {"n", 2},
                        {"max_tokens", 48}};
    const Json whole = server().chat(asked);
    Json with_usage = asked;
    with_usage["stream_options"] = {{"include_usage", true}};
    std::vector<std::string> events = server().stream("/v1/chat/completions", with_usage);
    ASSERT_GT(events.size(), 10u);
    EXPECT_EQ(events.back(), "[DONE]");
    events.pop_back();
    const Json last = Json::parse(events.back());
    events.pop_back();
    EXPECT_TRUE(last["choices"].empty());
    EXPECT_EQ(last["usage"], whole["usage"]);
    std::string thinking[2], content[2], role[2], finish[2];
    for (const std::string& event : events) {
      const Json chunk = Json::parse(event);
      EXPECT_EQ(chunk["object"], "chat.completion.chunk");
      ASSERT_EQ(chunk["choices"].size(), 1u);
      const Json& choice = chunk["choices"][0];
      const size_t k = choice["index"];
      EXPECT_EQ(finish[k], "");
      role[k] += choice["delta"].value("role", "");
      thinking[k] += choice["delta"].value("reasoning_content", "");
      content[k] += choice["delta"].value("content", "");
      if (!choice["finish_reason"].is_null()) finish[k] = choice["finish_reason"];
    }
    for (size_t k = 0; k < 2; ++k) {
      const Json& choice = whole["choices"][k];
      EXPECT_EQ(role[k], "assistant");
      EXPECT_EQ(content[k], choice["message"]["content"]);
      EXPECT_EQ(thinking[k], choice["message"].value("reasoning_content", ""));
      EXPECT_EQ(finish[k], choice["finish_reason"]);
    }
  }
}

TEST_F(Answers, AStopTextEndsACompletionAndIsLeftOut) {
  Json asked = {{"prompt", "12 + 9 ="}, {"temperature", 0}, {"max_tokens", 24}};
  const std::string text = server().complete(asked)["choices"][0]["text"];
  ASSERT_GT(text.size(), 12u);
  const std::string stop = text.substr(5, 3);
  const size_t at = text.find(stop);
  asked["stop"] = {"never said", stop};
  const Json cut = server().complete(asked);
  EXPECT_EQ(cut["choices"][0]["text"], text.substr(0, at));
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "stop");
  EXPECT_LT(cut["usage"]["completion_tokens"], 24);
  std::string streamed;
  std::vector<std::string> events = server().stream("/v1/completions", asked);
  events.pop_back();
  for (const std::string& event : events)
    streamed += Json::parse(event)["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(streamed, text.substr(0, at));
}

// More than run at once, in three sizes, one between them and a pair, some drawn.
TEST_F(Answers, RequestsThatRunTogetherSayWhatTheySayAlone) {
  const char* kModels[] = {"100%", "50%", "85%", "75%", "50%>100%"};
  std::vector<Json> asked, alone(12), together(12);
  for (int i = 0; i < 12; ++i)
    asked.push_back({{"model", kModels[i % 5]},
                     {"prompt", str("<|im_start|>user\nWhat is ", 10 + i,
                                    " + 9?<|im_end|>\n<|im_start|>assistant\n<think>\n")},
                     {"temperature", i % 3 == 0 ? 1.0 : 0.0},
                     {"seed", i},
                     {"max_tokens", 12 + 4 * (i % 5)}});
  for (size_t i = 0; i < asked.size(); ++i) alone[i] = server().complete(asked[i])["choices"];
  std::vector<std::thread> clients;
  for (size_t i = 0; i < asked.size(); ++i)
    clients.emplace_back([&, i] { together[i] = server().complete(asked[i])["choices"]; });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(together[i], alone[i]) << asked[i];
  EXPECT_TRUE(server().idle_within(milliseconds(1000)));
}

}  // namespace
}  // namespace nestling
