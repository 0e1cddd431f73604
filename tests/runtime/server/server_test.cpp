// The server as clients see it: what it answers is what a conversation, generate and a forward say.
#include "runtime/server/server.h"

#include <cmath>
#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/chat_session.h"
#include "runtime/generator.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_elastic.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

using testing::TempDir;
using Tokens = std::vector<int32_t>;
using std::chrono::milliseconds;

constexpr int64_t kContext = 1024;
constexpr const char* kAsked[] = {"What is 347 + 58?", "What is 12 + 9?", "What is 5 * 7?"};
// Of its tokens every one is as likely: it goes on until the context is full.
const Json kEndless = {
    {"prompt", "1"}, {"temperature", 1e6}, {"max_tokens", 600}, {"stream", true}, {"seed", 1}};

// A server of its own for a test; the model is opened twice: its own is the engine's.
class Running {
 public:
  explicit Running(const std::filesystem::path& file, ServerOptions options = {})
      : model_(file, DType::kF32), server_(ctx_, model_, at_any_port(std::move(options))) {
    thread_ = std::thread([this] { server_.listen(); });
  }
  ~Running() {
    server_.end(milliseconds(0));
    thread_.join();
  }
  httplib::Client client() const {
    httplib::Client c("127.0.0.1", server_.port());
    c.set_read_timeout(30);
    return c;
  }
  Server& server() { return server_; }

  struct Answer {
    int status = 0;
    Json body;
    std::string type;
    httplib::Headers headers;
  };
  Answer post(const std::string& path, const std::string& body,
              const httplib::Headers& headers = {}) const {
    const auto got = client().Post(path, headers, body, "application/json");
    if (!got) throw Error("no answer: " + httplib::to_string(got.error()));
    return {got->status, Json::parse(got->body, nullptr, false),
            got->get_header_value("Content-Type"), got->headers};
  }
  Json ask(const std::string& path, const Json& body) const {
    const Answer answer = post(path, body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.body;
  }
  Json chat(const Json& body) const { return ask("/v1/chat/completions", body); }
  Json complete(const Json& body) const { return ask("/v1/completions", body); }
  // The data of every event.
  std::vector<std::string> stream(const std::string& path, Json body) const {
    body["stream"] = true;
    const auto got = client().Post(path, body.dump(), "application/json");
    EXPECT_EQ(got->status, 200);
    EXPECT_EQ(got->get_header_value("Content-Type"), "text/event-stream");
    std::vector<std::string> events;
    std::string rest = got->body;
    for (size_t at; (at = rest.find("\n\n")) != std::string::npos; rest.erase(0, at + 2)) {
      EXPECT_EQ(rest.substr(0, 6), "data: ");
      events.push_back(rest.substr(6, at - 6));
    }
    EXPECT_EQ(rest, "");
    return events;
  }
  bool idle_within(milliseconds most) const {
    const auto until = std::chrono::steady_clock::now() + most;
    while (!server_.engine().idle() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(milliseconds(5));
    return server_.engine().idle();
  }

 private:
  static ServerOptions at_any_port(ServerOptions options) {
    options.port = 0;
    if (options.engine.context == EngineOptions{}.context) options.engine.context = kContext;
    return options;
  }
  LoadedModel model_;
  Context ctx_{Device::kCpu};
  Server server_;
  std::thread thread_;
};

// One file and one server for most tests of this program.
class ServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(file(), StoredType::kBF16);
    model_ = new LoadedModel(file(), DType::kF32);
    running_ = new Running(file());
  }
  static void TearDownTestSuite() {
    delete running_;
    delete model_;
    delete dir_;
  }
  static std::filesystem::path file() { return dir_->path() / "e.h5"; }
  static LoadedModel& model() { return *model_; }
  static Running& server() { return *running_; }

  static Json messages(const std::string& user) { return {{{"role", "user"}, {"content", user}}}; }
  static Tokens encode(const std::string& text) { return model().tokenizer().encode(text, false); }
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

  static inline TempDir* dir_ = nullptr;
  static inline LoadedModel* model_ = nullptr;
  static inline Running* running_ = nullptr;
};

TEST_F(ServerTest, AChatIsAConversationsAnswer) {
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

TEST_F(ServerTest, AChatMayGoOnAndMayNotThink) {
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

TEST_F(ServerTest, CompletionsAreWhatGenerateSays) {
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
TEST_F(ServerTest, EchoedLogprobsAreTheLogSoftmaxOfAForward) {
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
          // Steps and a forward differ by 1e-5 of the largest logit (decode_test.cpp); twice in a difference.
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

TEST_F(ServerTest, LogprobsOfAChatAreOfItsTokens) {
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

// Streamed, an answer is the same, also where characters come in pieces (most tokens of a draw from all are bytes or
// parts of words).
TEST_F(ServerTest, StreamsAreTheWholeAnswerInPieces) {
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

TEST_F(ServerTest, AStopTextEndsACompletionAndIsLeftOut) {
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

// More than run at once, in three sizes and pairs, some drawn, some streamed.
TEST_F(ServerTest, RequestsThatRunTogetherSayWhatTheySayAlone) {
  const char* kModels[] = {"100%", "50%", "75%", "50%>100%"};
  std::vector<Json> asked, alone(12), together(12);
  for (int i = 0; i < 12; ++i)
    asked.push_back({{"model", kModels[i % 4]},
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

TEST_F(ServerTest, AClientThatGoesAwayGivesUpWhatItAskedFor) {
  using Clock = std::chrono::steady_clock;
  Json asked = kEndless;
  asked["stream"] = false;
  auto begin = Clock::now();
  ASSERT_GT(server().complete(asked)["usage"]["completion_tokens"], 200);
  const auto whole = Clock::now() - begin;
  for (const bool streamed : {true, false}) {
    asked["stream"] = streamed;
    begin = Clock::now();
    httplib::Client client = server().client();
    if (streamed) {
      httplib::Request request;
      request.method = "POST";
      request.path = "/v1/completions";
      request.body = asked.dump();
      request.set_header("Content-Type", "application/json");
      request.content_receiver = [](const char*, size_t, uint64_t, uint64_t) { return false; };
      EXPECT_FALSE(client.send(request));
    } else {
      client.set_read_timeout(0, 20000);
      EXPECT_FALSE(client.Post("/v1/completions", asked.dump(), "application/json"));
      client.stop();
    }
    EXPECT_TRUE(server().idle_within(milliseconds(20000)));
    EXPECT_LT(Clock::now() - begin, whole) << streamed;
  }
}

TEST_F(ServerTest, WhatIsOneTooManyIsToldToComeAgain) {
  Running small(file(), {.engine = {.parallel = 1, .context = kContext, .queue = 1}});
  std::atomic<int> done{0};
  std::vector<std::thread> clients;
  const auto endless = [&] {
    // Ends when it is told to: its answer is of no interest.
    small.client().Post("/v1/completions", kEndless.dump(), "application/json");
    ++done;
  };
  const auto wait = [&](int64_t running, int64_t waiting) {
    for (int i = 0; i < 400; ++i) {
      const Engine& engine = small.server().engine();
      if (engine.running() == running && engine.waiting() == waiting) return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  };
  clients.emplace_back(endless);
  ASSERT_TRUE(wait(1, 0));
  clients.emplace_back(endless);
  ASSERT_TRUE(wait(1, 1));
  const auto refused = small.post("/v1/completions", R"({"prompt":"1"})");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.find("Retry-After")->second, "1");
  EXPECT_EQ(refused.body["error"]["code"], "queue_full");
  EXPECT_EQ(small.client().Get("/health")->status, 200);
  small.server().end(milliseconds(0));  // those two are told, and the program may end
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(done, 2);
}

TEST_F(ServerTest, EndingFinishesWhatRunsAndTakesNoMore) {
  Running ending(file(), {.engine = {.parallel = 1, .context = kContext, .queue = 4}});
  Json body = kEndless;
  body["stream"] = false;
  body["max_tokens"] = 100;
  int status = 0;
  std::thread client([&] { status = ending.post("/v1/completions", body.dump()).status; });
  while (ending.server().engine().running() == 0) std::this_thread::sleep_for(milliseconds(1));
  std::thread end([&] { ending.server().end(milliseconds(20000)); });
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(ending.post("/v1/completions", R"({"prompt":"1"})").status, 503);
  client.join();
  end.join();
  EXPECT_EQ(status, 200);
}

TEST_F(ServerTest, WhatIsAskedWrongIsRefusedByName) {
  const struct {
    const char* path;
    const char* body;
    int status;
    const char* says;
  } kCases[] = {
      {"/v1/completions", R"({"prompt":)", 400, "not valid JSON"},
      {"/v1/completions", R"([1])", 400, "needs an object"},
      {"/v1/completions", R"({})", 400, "prompt"},
      {"/v1/completions", R"({"prompt":""})", 400, "prompt: no token"},
      {"/v1/completions", R"({"prompt":[]})", 400, "prompt: an empty list"},
      {"/v1/completions", R"({"prompt":[1,4096]})", 400, "prompt[1]: 4096 is no token"},
      {"/v1/completions", R"({"prompt":[[1],[-1]]})", 400, "prompt[1][0]: -1 is no token"},
      {"/v1/completions", R"({"prompt":"1","temperature":-1})", 400, "temperature: -1"},
      {"/v1/completions", R"({"prompt":"1","temperature":"hot"})", 400, "needs number"},
      {"/v1/completions", R"({"prompt":"1","top_p":0})", 400, "top_p: 0"},
      {"/v1/completions", R"({"prompt":"1","n":0})", 400, "n: 0"},
      {"/v1/completions", R"({"prompt":"1","stop":["x",""]})", 400, "stop"},
      {"/v1/completions", R"({"prompt":"1","logprobs":21})", 400, "logprobs: 21"},
      {"/v1/completions", R"({"prompt":"1","max_tokens":1024})", 400, "the context is 1024"},
      {"/v1/completions", R"({"prompt":"1","suffix":"x"})", 400, "suffix: not supported"},
      {"/v1/completions", R"({"prompt":"1","presence_penalty":0.5})", 400, "only 0 is taken"},
      {"/v1/completions", R"({"prompt":"1","logit_bias":{"5":1}})", 400, "logit_bias"},
      {"/v1/completions", R"({"prompt":"1","guided_regex":"x"})", 400, "guided_regex: not a field"},
      {"/v1/completions", R"({"prompt":"1","messages":[]})", 400, "messages: not a field"},
      {"/v1/completions", R"({"prompt":"1","stream_options":{}})", 400, "only with stream"},
      {"/v1/completions", R"({"prompt":"1","logprobs":0,"thinking_token_budget":1})", 400,
       "thinking_token_budget"},
      {"/v1/completions", R"({"prompt":"1","model":"30B"})", 404, "100%, 75%, 50%"},
      {"/v1/completions", R"({"prompt":"1","model":"50%>30B"})", 404, "THINK>ANSWER"},
      {"/v1/chat/completions", R"({"messages":[]})", 400, "needs an array of messages"},
      {"/v1/chat/completions", R"({"messages":[{"role":"tool","content":"x"}]})", 400,
       "messages[0].role: 'tool'"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user"}]})", 400, "content"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})",
       400, "image_url"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user","content":"x","name":"y"}]})", 400,
       "messages[0].name: not supported"},
      {"/v1/chat/completions",
       R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})", 400,
       "tools: not supported"},
      {"/v1/chat/completions",
       R"({"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}})",
       400, "response_format: not supported"},
      {"/v1/chat/completions",
       R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"tone":1}})", 400,
       "chat_template_kwargs.tone: not supported"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"max_tokens":0})",
       400, "max_tokens: 0"},
      {"/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":2})",
       400, "only with logprobs"},
      {"/v1/embeddings", R"({"input":"x"})", 404, "nothing is at POST /v1/embeddings"},
      {"/detokenize", R"({"tokens":[99999]})", 400, "no token"},
  };
  for (const auto& c : kCases) {
    const Running::Answer answer = server().post(c.path, c.body);
    EXPECT_EQ(answer.status, c.status) << c.body;
    EXPECT_EQ(answer.type, "application/json");
    const std::string message = answer.body["error"]["message"];
    EXPECT_NE(message.find(c.says), std::string::npos) << c.body << ": " << message;
  }
  const auto plain = server().client().Post("/v1/completions", R"({"prompt":"1"})", "text/plain");
  EXPECT_EQ(plain->status, 415);
  const std::string large(static_cast<size_t>(kMostBody) + 1, ' ');
  const auto too_large = server().client().Post("/v1/completions", large, "application/json");
  ASSERT_TRUE(too_large);
  EXPECT_EQ(too_large->status, 413);
  EXPECT_NE(too_large->body.find("33554432"), std::string::npos);
}

TEST_F(ServerTest, FieldsThatChangeNothingAreTaken) {
  const Json answer = server().chat({{"messages", messages("1 + 1?")},
                                     {"max_tokens", 2},
                                     {"user", "me"},
                                     {"metadata", {{"a", "b"}}},
                                     {"presence_penalty", 0.0},
                                     {"logit_bias", Json::object()},
                                     {"tools", nullptr},
                                     {"tool_choice", "none"},
                                     {"response_format", {{"type", "text"}}},
                                     {"top_k", -1},
                                     {"stop", nullptr}});
  EXPECT_EQ(answer["choices"].size(), 1u);
}

TEST_F(ServerTest, ModelsAreSizesAndPairsOfThem) {
  const Json list = Json::parse(server().client().Get("/v1/models")->body);
  std::vector<std::string> ids;
  for (const Json& entry : list["data"]) ids.push_back(entry["id"]);
  EXPECT_EQ(ids,
            (std::vector<std::string>{"100%", "75%", "50%", "75%>100%", "50%>100%", "50%>75%"}));
  model().select("50%");
  EXPECT_EQ(list["data"][2]["params_active"], model().cost().active);
  EXPECT_EQ(list["data"][2]["max_model_len"], kContext);
  const auto one = server().client().Get("/v1/models/75%25");
  EXPECT_EQ(Json::parse(one->body)["id"], "75%");
  EXPECT_EQ(server().client().Get("/v1/models/30B")->status, 404);
}

TEST_F(ServerTest, TokensGoToTextAndBack) {
  const Json told = server().ask("/tokenize", {{"prompt", "12 + 9 ="}});
  EXPECT_EQ(told["tokens"].get<Tokens>(), encode("12 + 9 ="));
  EXPECT_EQ(server().ask("/detokenize", {{"tokens", told["tokens"]}})["prompt"], "12 + 9 =");
  const Json info = Json::parse(server().client().Get("/tokenizer_info")->body);
  EXPECT_EQ(info["eos_token"], "</s>");
  EXPECT_EQ(info["chat_template"], model().tokenizer_files().at("chat_template.jinja"));
}

TEST_F(ServerTest, AKeyIsAskedForButOfHealth) {
  Running locked(file(), {.key = "secret"});
  const std::string body = R"({"prompt":"1","max_tokens":1})";
  EXPECT_EQ(locked.client().Get("/health")->status, 200);
  EXPECT_EQ(locked.client().Get("/v1/models")->status, 401);
  for (const char* wrong : {"Bearer secre", "Bearer secret2", "secret", "Bearer "}) {
    const auto answer = locked.post("/v1/completions", body, {{"Authorization", wrong}});
    EXPECT_EQ(answer.status, 401);
    EXPECT_EQ(answer.body["error"]["code"], "invalid_api_key");
  }
  EXPECT_EQ(locked.post("/v1/completions", body, {{"Authorization", "Bearer secret"}}).status, 200);
  // Where there is none, whatever a client sends is as good.
  EXPECT_EQ(server().post("/v1/completions", body, {{"Authorization", "Bearer "}}).status, 200);
}

TEST_F(ServerTest, APortIsOneServers) {
  LoadedModel other(file(), DType::kF32);
  Context ctx(Device::kCpu);
  ServerOptions options;
  options.port = server().server().port();
  testing::expect_error([&] { Server second(ctx, other, options); },
                        {"cannot listen at 127.0.0.1 port"}, ErrorKind::kRuntime);
}

TEST_F(ServerTest, TheGuideNamesEveryField) {
  const std::string guide = testing::read_bytes(testing::source_dir() / "docs/serve.md");
  for (const std::string& name : request_fields())
    EXPECT_NE(guide.find('`' + name + '`'), std::string::npos) << name;
}

}  // namespace
}  // namespace nestling
