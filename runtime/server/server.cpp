#include "runtime/server/server.h"

#include <httplib.h>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/server/reply.h"

namespace nestling {

namespace {

using HttpRequest = httplib::Request;
using HttpResponse = httplib::Response;

constexpr const char* kJson = "application/json";
constexpr size_t kRequestsAConnection = 10000;
constexpr auto kLook = std::chrono::milliseconds(100);  // how often a client is looked after

void answer(HttpResponse& to, const Json& json) {
  to.set_content(dump_json(json, -1), kJson);
}

void answer(HttpResponse& to, const ServerError& error) {
  to.status = error.status();
  if (error.status() == 503) to.set_header("Retry-After", "1");
  if (error.status() == 401) to.set_header("WWW-Authenticate", "Bearer");
  answer(to, error_json(error));
}

// What `body` does, or the error that it throws.
template <class Body>
void answer_or_refuse(HttpResponse& to, const Body& body) {
  try {
    body();
  } catch (const ServerError& e) {
    answer(to, e);
  } catch (const Error& e) {
    answer(to, ServerError(e.kind() == ErrorKind::kInput ? 400 : 500, e.what()));
  } catch (const std::exception& e) {
    answer(to, ServerError(500, e.what()));
  }
}

JsonDocument body_of(const HttpRequest& from) {
  const std::string type = from.get_header_value("Content-Type");
  if (!type.starts_with(kJson))
    throw ServerError(415, "Content-Type: needs application/json, found '" + type + "'");
  return parse_json(from.body, "request");
}

// Takes as long wherever they differ.
bool same_key(const std::string& a, const std::string& b) {
  unsigned char differs = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i)
    differs = static_cast<unsigned char>(differs | (a[i] ^ b[i]));
  return differs == 0;
}

// Without SO_REUSEPORT, httplib's default, by which two servers share a port without a word.
void reuse_address(socket_t socket) {
  const int yes = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

struct Server::State {
  State(Context& ctx, LoadedModel& loaded, const ServerOptions& o)
      : options(o),
        model(loaded),
        reader(loaded, {.context = o.engine.context, .rule = o.rule}),
        engine(ctx, loaded, o.engine) {}

  void set_up();
  void bind();
  void route();
  bool let_in(const HttpRequest& from, HttpResponse& to) const;
  Json models() const;
  Json model_entry(const std::string& id) const;
  Json tokenizer_info() const;
  Json tokenize(JsonRef body) const;
  Json detokenize(JsonRef body) const;
  void run(ServedRequest request, HttpResponse& to);
  std::string next_id();

  const ServerOptions options;
  const LoadedModel& model;
  RequestReader reader;
  Engine engine;
  httplib::Server http;
  int port = 0;
  const int64_t started = now();
  std::atomic<int64_t> answering{0};  // replies that are being written
  std::atomic<uint64_t> requests{0};
  std::mutex mutex;
  bool listening = false, ended = false;
};

namespace {

// What an answer is written from, piece by piece; gone when it is written or its client is.
class Writing {
 public:
  Writing(const Tokenizer& tokenizer, std::shared_ptr<Job> job, const std::string& id,
          std::atomic<int64_t>& count)
      : job_(std::move(job)), reply_(tokenizer, job_->request(), id, now()), count_(count) {
    ++count_;
  }
  ~Writing() {
    job_->cancel();
    --count_;
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

  // Until something has come, so that what fails before it has a status of its own.
  void wait() {
    while (!first_ && !job_->ended()) first_ = job_->next(kLook);
  }
  // false: the client is gone, or, where the answer is one object, it failed half way.
  bool write(httplib::DataSink& to) {
    if (!to.is_writable()) return false;
    const bool stream = job_->request().stream;
    try {
      std::optional<AnswerPiece> piece = first_ ? std::exchange(first_, {}) : job_->next(kLook);
      if (piece && !stream) reply_.add(std::move(*piece));
      if (piece) return !stream || send(to, reply_.events(*piece));
      if (!job_->ended()) return true;
    } catch (const ServerError& e) {
      if (!stream) return false;
      return end(to, sse(dump_json(error_json(e), -1)));
    }
    return end(to, stream ? reply_.last_events(job_->usage())
                          : dump_json(reply_.whole(job_->usage()), -1));
  }

 private:
  static bool send(httplib::DataSink& to, const std::string& text) {
    return text.empty() || to.write(text.data(), text.size());
  }
  static bool end(httplib::DataSink& to, const std::string& text) {
    if (!send(to, text)) return false;
    to.done();
    return true;
  }

  std::shared_ptr<Job> job_;
  Reply reply_;
  std::atomic<int64_t>& count_;
  std::optional<AnswerPiece> first_;
};

}  // namespace

std::string Server::State::next_id() {
  static const uint64_t kRun = std::random_device()();
  return str(std::hex, kRun, "-", ++requests);
}

void Server::State::run(ServedRequest request, HttpResponse& to) {
  auto job = std::make_shared<Job>(std::move(request));
  engine.submit(job);
  const auto writing = std::make_shared<Writing>(model.tokenizer(), job, next_id(), answering);
  writing->wait();
  to.set_chunked_content_provider(
      job->request().stream ? "text/event-stream" : kJson,
      [writing](size_t, httplib::DataSink& sink) { return writing->write(sink); });
}

Json Server::State::model_entry(const std::string& id) const {
  Json entry = {{"id", id},
                {"object", "model"},
                {"created", started},
                {"owned_by", "nestling"},
                {"root", model.name()},
                {"max_model_len", reader.context()}};
  const std::vector<std::string> sizes = model.sizes();
  if (std::find(sizes.begin(), sizes.end(), id) == sizes.end()) return entry;
  const ParameterCost cost = parameter_cost(model.config(), model.find(id).widths);
  entry["params_total"] = cost.total;
  entry["params_active"] = cost.active;
  return entry;
}

Json Server::State::models() const {
  Json list = Json::array();
  for (const std::string& id : reader.models()) list.push_back(model_entry(id));
  return {{"object", "list"}, {"data", list}};
}

Json Server::State::tokenize(JsonRef body) const {
  const JsonRef special = body.find("add_special_tokens");
  const std::vector<int32_t> tokens =
      model.tokenizer().encode(body.at("prompt").string(), !special || special.boolean());
  return {{"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", reader.context()}};
}

Json Server::State::detokenize(JsonRef body) const {
  return {{"prompt", model.tokenizer().decode(reader.token_ids(body.at("tokens")))}};
}

// tokenizer_config.json and the chat template, as lm-eval asks a server for them.
Json Server::State::tokenizer_info() const {
  const auto& files = model.tokenizer_files();
  Json info = Json::object();
  if (const auto at = files.find("tokenizer_config.json"); at != files.end())
    info = parse_json(at->second, at->first, kHuggingFaceJson).json();
  if (const auto at = files.find("chat_template.jinja"); at != files.end())
    info["chat_template"] = at->second;
  return info;
}

bool Server::State::let_in(const HttpRequest& from, HttpResponse& to) const {
  if (options.key.empty() || from.path == "/health") return true;
  if (same_key(from.get_header_value("Authorization"), "Bearer " + options.key)) return true;
  answer(to, ServerError(401, "needs the key of this server as Authorization: Bearer KEY",
                         "invalid_api_key"));
  return false;
}

void Server::State::route() {
  const auto get = [&](const char* path, const std::function<Json(const HttpRequest&)>& made) {
    http.Get(path, [made](const HttpRequest& from, HttpResponse& to) {
      answer_or_refuse(to, [&] { answer(to, made(from)); });
    });
  };
  get("/health", [&](const HttpRequest&) {
    return Json{{"status", "ok"}, {"running", engine.running()}, {"waiting", engine.waiting()}};
  });
  get("/v1/models", [&](const HttpRequest&) { return models(); });
  get("/v1/models/(.+)", [&](const HttpRequest& from) {
    const std::string id = from.matches[1];
    reader.check_model(id);
    return model_entry(id);
  });
  get("/tokenizer_info", [&](const HttpRequest&) { return tokenizer_info(); });

  const auto post = [&](const char* path, const std::function<void(JsonRef, HttpResponse&)>& done) {
    http.Post(path, [done](const HttpRequest& from, HttpResponse& to) {
      answer_or_refuse(to, [&] { done(body_of(from).root(), to); });
    });
  };
  post("/v1/chat/completions", [&](JsonRef body, HttpResponse& to) { run(reader.chat(body), to); });
  post("/v1/completions",
       [&](JsonRef body, HttpResponse& to) { run(reader.completion(body), to); });
  post("/tokenize", [&](JsonRef body, HttpResponse& to) { answer(to, tokenize(body)); });
  post("/detokenize", [&](JsonRef body, HttpResponse& to) { answer(to, detokenize(body)); });
}

void Server::State::set_up() {
  using Handled = httplib::Server::HandlerResponse;
  http.set_pre_routing_handler([&](const HttpRequest& from, HttpResponse& to) {
    return let_in(from, to) ? Handled::Unhandled : Handled::Handled;
  });
  // What httplib refuses by itself.
  http.set_error_handler(httplib::Server::HandlerWithResponse([](const HttpRequest& from,
                                                                 HttpResponse& to) {
    if (!to.body.empty()) return Handled::Handled;
    const std::string what = to.status == 404   ? "nothing is at " + from.method + " " + from.path
                             : to.status == 413 ? str("a body of more than ", kMostBody, " bytes")
                                                : str("HTTP status ", to.status);
    answer(to, ServerError(to.status, what));
    return Handled::Handled;
  }));
  http.set_payload_max_length(static_cast<size_t>(kMostBody));
  http.set_tcp_nodelay(true);
  http.set_keep_alive_max_count(kRequestsAConnection);
  http.set_socket_options(reuse_address);
  // A connection holds a thread as long as it stays: one for every request that may run or wait,
  // and for others, that are told that no more may, or ask nothing for the moment.
  constexpr int64_t kMore = 64;
  const auto threads = static_cast<size_t>(options.engine.parallel + options.engine.queue + kMore);
  http.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
}

void Server::State::bind() {
  if (options.port == 0)
    port = http.bind_to_any_port(options.host);
  else
    port = http.bind_to_port(options.host, options.port) ? options.port : -1;
  NESTLING_CHECK(port > 0, "cannot listen at ", options.host, " port ", options.port,
                 ": no such address here, or another program listens there");
}

Server::Server(Context& ctx, LoadedModel& model, const ServerOptions& options)
    : state_(std::make_unique<State>(ctx, model, options)) {
  state_->set_up();
  state_->route();
  state_->bind();
}

Server::~Server() {
  end(std::chrono::milliseconds(0));
}

int Server::port() const {
  return state_->port;
}

const Engine& Server::engine() const {
  return state_->engine;
}

void Server::listen() {
  const auto set = [&](bool listening) {
    const std::lock_guard lock(state_->mutex);
    return state_->listening = listening && !state_->ended;
  };
  if (!set(true)) return;
  state_->http.listen_after_bind();
  set(false);
}

void Server::end(std::chrono::milliseconds patience) {
  constexpr auto kToSaySo = std::chrono::milliseconds(1000);
  const auto wait = [](std::chrono::milliseconds most, const std::function<bool()>& done) {
    const auto until = std::chrono::steady_clock::now() + most;
    while (!done() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  state_->engine.drain();
  wait(patience, [&] { return state_->engine.idle() && state_->answering == 0; });
  state_->engine.abort();
  wait(kToSaySo, [&] { return state_->answering == 0; });  // clients are told
  // stop() of a server that is about to listen would go unheard.
  for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
    const std::lock_guard lock(state_->mutex);
    state_->ended = true;
    if (!state_->listening || state_->http.is_running()) break;
  }
  state_->http.stop();
}

}  // namespace nestling
