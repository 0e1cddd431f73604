#include <CLI/CLI.hpp>
#include <algorithm>
#include <thread>

#include "data/mapped_file.h"
#include "runtime/server/memory_fit.h"
#include "runtime/server/server.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"
#include "trainer/stop_signal.h"

namespace nestling {

namespace {

struct ServeCommand : ModelOptions {
  ServerOptions server;
  std::string key_file;
  int64_t patience = 30;
  std::string fit;                                    // a memory; empty: what the options say
  bool compute_given = false, context_given = false;  // on the command line
};

// The shortest context that --fit takes a size with, unless --context says another.
constexpr int64_t kLeastContext = 1024;

// The first line; it must say something.
std::string read_key(const std::string& file) {
  const MappedFile mapped(file);
  std::string key(mapped.text());
  key = key.substr(0, key.find_first_of("\r\n"));
  NESTLING_CHECK_INPUT(!key.empty(), file, ": its first line is empty, needs a key");
  return key;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

void say_where(const ServeCommand& o, const LoadedModel& model, int port) {
  std::string sizes;
  for (const std::string& size : model.sizes()) sizes += (sizes.empty() ? "" : ", ") + size;
  std::printf("%s, sizes %s: http://%s:%d\n", model.name().c_str(), sizes.c_str(),
              o.server.host.c_str(), port);
  std::printf("%lld sequences at once, %lld tokens each; %lld requests may wait\n",
              static_cast<long long>(o.server.engine.parallel),
              static_cast<long long>(o.server.engine.context),
              static_cast<long long>(o.server.engine.queue));
  if (!is_loopback(o.server.host) && o.server.key.empty())
    std::printf("no key: everyone who reaches %s may use it (--api-key-file)\n",
                o.server.host.c_str());
  std::fflush(stdout);
}

// Size, precision and context for the memory that was asked for, into the options.
void fit_to_memory(ServeCommand& o, Context& ctx) {
  MemoryFitOptions fit{
      .memory = parse_memory(o.fit),
      .size = o.size,
      .precisions = {},
      .context = {.least = o.server.engine.context, .longest = o.server.engine.context},
      .parallel = o.server.engine.parallel,
      .device = o.device(),
      .real = &ctx};
  if (!o.context_given) fit.context.least = std::min(kLeastContext, fit.context.longest);
  // bf16 activations are beside bf16 products alone.
  const bool any = !o.compute_given && o.activations != "bf16";
  std::vector<std::string> computes = {o.compute_given ? o.compute : "bf16"};
  if (any) computes = {"fp32", "bf16"};
  for (const std::string& compute : computes) {
    o.compute = compute;
    fit.precisions.push_back(o.precision());
  }
  const MemoryFit found = fit_memory(o.model, fit);
  std::printf("%s", found.text.c_str());
  o.size = found.size;
  o.compute = found.precision.compute == DType::kBF16 ? "bf16" : "fp32";
  o.server.engine.context = found.context;
}

int run_serve(ServeCommand& o) {
  o.apply();
  catch_stop_signals();
  if (!o.key_file.empty()) o.server.key = read_key(o.key_file);
  Context ctx(o.device());
  if (!o.fit.empty()) fit_to_memory(o, ctx);
  LoadedModel model(o.model, o.precision(), o.size, o.device());
  Server server(ctx, model, o.server);
  say_where(o, model, server.port());
  std::thread listening([&] { server.listen(); });
  while (!told_to_stop()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::printf("ending; what runs has %lld s\n", static_cast<long long>(o.patience));
  std::fflush(stdout);
  server.end(std::chrono::seconds(o.patience));
  listening.join();
  return 0;
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("serve", "An OpenAI-compatible HTTP server");
  auto o = std::make_shared<ServeCommand>();
  o->add_to(*command);
  command->add_option("--host", o->server.host, "Address to listen at")->capture_default_str();
  command->add_option("--port", o->server.port, "0: any that is free, which is printed")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--api-key-file", o->key_file,
                      "Its first line is asked for as Authorization: Bearer (default: no key)");
  command->add_option("--context", o->server.engine.context, "Tokens of a prompt and its answer")
      ->check(kTokenRange)
      ->capture_default_str();
  command->add_option("--parallel", o->server.engine.parallel, "Sequences that run at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--queue", o->server.engine.queue, "Requests that may wait")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--patience", o->patience, "Seconds to finish what runs, on SIGTERM or SIGINT")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  add_sampling_rule(*command, o->server.rule);
  command
      ->add_option("--prefill", o->server.engine.prefill,
                   "Tokens of prompts in one step, of all sequences together")
      ->check(kTokenRange)
      ->capture_default_str();
  add_drafts(*command, o->server.engine.draft);
  command->add_option("--fit", o->fit,
                      "Memory, as 16GiB: the best size, precision and context that it holds, of "
                      "those that other options leave open");
  for (const char* alone : {"--size", "--fit"})  // each opens one size
    command->get_option("--draft")->excludes(command->get_option(alone));
  in_one_process(*command, exit_code, [o, command] {
    o->compute_given = command->get_option("--compute")->count() > 0;
    o->context_given = command->get_option("--context")->count() > 0;
    return run_serve(*o);
  });
}

}  // namespace nestling
