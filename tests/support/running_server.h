// running_server.h - a server of the tiny elastic model at a port of its own, and a client that
// speaks JSON to it.
#pragma once
#include <gtest/gtest.h>
#include <httplib.h>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/server/server.h"
#include "tests/support/tiny_elastic.h"

namespace nestling::testing {

inline constexpr int64_t kServerContext = 1024;
// Of its tokens every one is as likely: it goes on until the context is full.
inline const Json kEndless = {
    {"prompt", "1"}, {"temperature", 1e6}, {"max_tokens", 600}, {"stream", true}, {"seed", 1}};

// A server of its own for a test; the model is opened twice: its own is the engine's.
class RunningServer {
 public:
  explicit RunningServer(const std::filesystem::path& file, ServerOptions options = {})
      : model_(file, DType::kF32), server_(ctx_, model_, at_any_port(std::move(options))) {
    thread_ = std::thread([this] { server_.listen(); });
  }
  ~RunningServer() {
    server_.end(std::chrono::milliseconds(0));
    thread_.join();
  }
  httplib::Client client() const {
    httplib::Client c("127.0.0.1", server_.port());
    c.set_read_timeout(120);
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
  bool idle_within(std::chrono::milliseconds most) const {
    const auto until = std::chrono::steady_clock::now() + most;
    while (!server_.engine().idle() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return server_.engine().idle();
  }

 private:
  static ServerOptions at_any_port(ServerOptions options) {
    options.port = 0;
    if (options.engine.context == EngineOptions{}.context) options.engine.context = kServerContext;
    return options;
  }
  LoadedModel model_;
  Context ctx_{Device::kCpu};
  Server server_;
  std::thread thread_;
};

// One file and one server for the tests of a program; the same model once more, to hold against it.
class ServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_tiny_reasoner(file(), StoredType::kBF16);
    model_ = new LoadedModel(file(), DType::kF32);
    running_ = new RunningServer(file());
  }
  static void TearDownTestSuite() {
    delete running_;
    delete model_;
    delete dir_;
  }
  static std::filesystem::path file() { return dir_->path() / "e.h5"; }
  static LoadedModel& model() { return *model_; }
  static RunningServer& server() { return *running_; }
  static Json messages(const std::string& user) { return {{{"role", "user"}, {"content", user}}}; }
  static std::vector<int32_t> encode(const std::string& text) {
    return model().tokenizer().encode(text, false);
  }

 private:
  static inline TempDir* dir_ = nullptr;
  static inline LoadedModel* model_ = nullptr;
  static inline RunningServer* running_ = nullptr;
};

}  // namespace nestling::testing
