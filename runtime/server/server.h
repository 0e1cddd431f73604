// server.h - the model behind HTTP, as OpenAI's clients and lm-eval's local-completions speak to
// one.
//
//   GET  /health                     200
//   GET  /v1/models, /v1/models/ID   the sizes and pairs of them
//   POST /v1/chat/completions        messages, through the model's chat template
//   POST /v1/completions             texts or token ids as they are
//   POST /tokenize, /detokenize      GET /tokenizer_info
//
// Bodies        JSON, Content-Type application/json, at most kMostBody bytes. What is refused has
//               OpenAI's error object: 400 (what was asked), 401 (key), 404 (path, model), 413,
//               415, 503 with Retry-After (queue full, ending), 500.
// Clients       that go away: what they asked for is given up at the next step, or after its first
//               token.
// Threads       listen() blocks, and has returned before the server is gone; everything else from
//               any.
// Errors        kRuntime: an address that cannot be had (another program listens there).
#pragma once
#include <memory>

#include "runtime/server/engine.h"

namespace nestling {

inline constexpr int64_t kMostBody = int64_t{32} << 20;

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;       // 0: any that is free
  std::string key = {};  // of "Authorization: Bearer"; empty: none is asked for
  EngineOptions engine = {};
  SamplingRule rule = {.temperature = 1.0f};  // where a request says nothing
};

class Server {
 public:
  // Has the address when it returns; borrows context and model (engine.h).
  Server(Context& ctx, LoadedModel& model, const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  void listen();  // until stop(), or another thread's end()
  // Takes no more requests, gives those that run so long to be answered, then ends listen().
  void end(std::chrono::milliseconds patience);
  const Engine& engine() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nestling
