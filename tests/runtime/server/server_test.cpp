// The server beside its answers: what it takes and refuses, clients that go away, its queue, its
// key, its end.
#include "runtime/server/server.h"

#include <fstream>

#include "runtime/chat_template.h"
#include "tests/support/expect_error.h"
#include "tests/support/running_server.h"

namespace nestling {
namespace {

using std::chrono::milliseconds;
using testing::kEndless;
using testing::kServerContext;
using testing::RunningServer;
using testing::ServerTest;

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
    const RunningServer::Answer answer = server().post(c.path, c.body);
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
  EXPECT_EQ(list["data"][2]["max_model_len"], kServerContext);
  const auto one = server().client().Get("/v1/models/75%25");
  EXPECT_EQ(Json::parse(one->body)["id"], "75%");
  EXPECT_EQ(server().client().Get("/v1/models/30B")->status, 404);
}

TEST_F(ServerTest, TokensGoToTextAndBack) {
  const Json told = server().ask("/tokenize", {{"prompt", "12 + 9 ="}});
  EXPECT_EQ(told["tokens"].get<std::vector<int32_t>>(), encode("12 + 9 ="));
  EXPECT_EQ(server().ask("/detokenize", {{"tokens", told["tokens"]}})["prompt"], "12 + 9 =");
  const Json info = Json::parse(server().client().Get("/tokenizer_info")->body);
  EXPECT_EQ(info["eos_token"], "</s>");
  EXPECT_EQ(info["chat_template"], model().tokenizer_files().at("chat_template.jinja"));
}

// A completion's text gets what the template of the tokenizer says, unless it is asked not to; the turns of a
// chat never, and token ids are taken as they are.
TEST(Server, TextBeginsAsTheTokenizerSays) {
  const testing::TempDir dir;
  std::filesystem::copy(testing::tiny_reasoner(), dir.path() / "m");
  const std::filesystem::path file = dir.path() / "m/tokenizer.json";
  Json json = Json::parse(testing::read_bytes(file));
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
      {"special_tokens", {{"<s>", {{"ids", {1}}}}}}};
  std::ofstream(file) << json.dump();
  const RunningServer server(dir.path() / "m");
  const LoadedModel model(dir.path() / "m", DType::kF32);
  const std::vector<int32_t> plain = model.tokenizer().encode("12 + 9 =", false);
  std::vector<int32_t> begun = plain;
  begun.insert(begun.begin(), 1);
  EXPECT_EQ(model.tokenizer().encode("12 + 9 =", true), begun);
  Json asked = {{"prompt", "12 + 9 ="}};
  EXPECT_EQ(server.ask("/tokenize", asked)["tokens"].get<std::vector<int32_t>>(), begun);
  asked["add_special_tokens"] = false;
  EXPECT_EQ(server.ask("/tokenize", asked)["tokens"].get<std::vector<int32_t>>(), plain);
  const auto prompt_tokens = [&](Json body) -> int64_t {
    body["max_tokens"] = 1;
    return server.complete(body)["usage"]["prompt_tokens"];
  };
  EXPECT_EQ(prompt_tokens(asked), std::ssize(plain));
  asked.erase("add_special_tokens");
  EXPECT_EQ(prompt_tokens(asked), std::ssize(begun));
  EXPECT_EQ(prompt_tokens({{"prompt", plain}}), std::ssize(plain));
  const Json chat = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"max_tokens", 1}};
  const ChatTemplate turns(model.tokenizer_files(), "tiny");
  const std::string turn = turns.render({{.role = "user", .content = "hi"}}, true);
  EXPECT_EQ(server.chat(chat)["usage"]["prompt_tokens"],
            std::ssize(model.tokenizer().encode(turn, false)));
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
  RunningServer small(file(), {.engine = {.parallel = 1, .context = kServerContext, .queue = 1}});
  std::atomic<int> done{0};
  std::vector<std::thread> clients;
  const auto endless = [&] {
    const auto got = small.client().Post("/v1/completions", kEndless.dump(), "application/json");
    EXPECT_TRUE(got && got->body.find("the server is ending") != std::string::npos);
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
  RunningServer ending(file(), {.engine = {.parallel = 1, .context = kServerContext, .queue = 4}});
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

TEST_F(ServerTest, OneThatIsToldToEndBeforeItListensEnds) {
  for (int i = 0; i < 8; ++i) RunningServer brief(file());
}

TEST_F(ServerTest, AKeyIsAskedForButOfHealth) {
  RunningServer locked(file(), {.key = "secret"});
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
