#include <CLI/CLI.hpp>
#include <cstdio>

#include "runtime/generator.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct GenerateCommand : ModelOptions {
  std::string prompt;
  bool raw = false;
  GenerateOptions generate;
};

int run_generate(GenerateCommand& o) {
  o.apply();
  LoadedModel model(o.model, o.precision(), o.size, o.device());
  const Tokenizer& tokenizer = model.tokenizer();
  Context ctx(o.device());
  o.generate.stop_tokens = model.config().eos;
  TokenStream stream(tokenizer);
  o.generate.on_token = [&](size_t, int32_t token) {
    if (is_stop(token, o.generate)) return;  // it ends the text and is no part of it
    std::fputs(stream.push(token).c_str(), stdout);
    std::fflush(stdout);
  };
  generate(ctx, model, {prompt_tokens(model, o.prompt, o.raw)}, o.generate);
  std::fputs((stream.finish() + "\n").c_str(), stdout);
  return 0;
}

}  // namespace

void add_generate_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("generate", "Complete a prompt");
  auto o = std::make_shared<GenerateCommand>();
  o->add_to(*command);
  command->add_option("--prompt", o->prompt, "The user's turn; -: what standard input holds")
      ->required();
  command->add_flag("--raw", o->raw, "Take the prompt as it is, not as a turn of a chat");
  command->add_option("--max-new-tokens", o->generate.max_new_tokens, "Limit")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  add_sampling(*command, o->generate.rule, o->generate.seed);
  in_one_process(*command, exit_code, [o] { return run_generate(*o); });
}

}  // namespace nestling
