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

// What a control did, apart from the text.
void say_parts(const LoadedModel& model, const ThinkingControl& control, const Generated& made) {
  const ThinkingSizes sizes = thinking_sizes(model, control);
  const auto all = std::ssize(made.tokens);
  std::fflush(stdout);  // the text comes first
  std::fprintf(stderr, "[%lld tokens of thinking in size %s, %lld others in size %s",
               static_cast<long long>(made.thinking), sizes.think.name.c_str(),
               static_cast<long long>(all - made.thinking), sizes.answer.name.c_str());
  if (made.again > 0)
    std::fprintf(stderr, "; %lld run again where the size changed",
                 static_cast<long long>(made.again));
  std::fputs("]\n", stderr);
}

void say_drafts(const DraftControl& draft, const Generated& made) {
  std::fflush(stdout);
  std::fprintf(stderr, "[size %s proposed %lld tokens, %lld of them stand]\n", draft.size.c_str(),
               static_cast<long long>(made.drafted), static_cast<long long>(made.agreed));
}

int run_generate(GenerateCommand& o) {
  o.apply();
  const bool drafts = !o.generate.draft.size.empty();  // of the whole file: two sizes of it run
  LoadedModel model(o.model, o.precision(), drafts ? "" : o.size, o.device());
  if (drafts && !o.size.empty()) model.select(o.size);
  const Tokenizer& tokenizer = model.tokenizer();
  Context ctx(o.device());
  o.generate.stop_tokens = model.config().eos;
  ThinkingControl& control = o.generate.control;
  if (control.budget && !o.raw)
    control.closing = closing_text(ChatTemplate(model.tokenizer_files(), model.name()));
  TokenStream stream(tokenizer);
  o.generate.on_token = [&](size_t, int32_t token) {
    if (is_stop(token, o.generate)) return;  // it ends the text and is no part of it
    std::fputs(stream.push(token).c_str(), stdout);
    std::fflush(stdout);
  };
  const std::vector<Generated> made =
      generate(ctx, model, {prompt_tokens(model, o.prompt, o.raw)}, o.generate);
  std::fputs((stream.finish() + "\n").c_str(), stdout);
  if (control.any()) say_parts(model, control, made[0]);
  if (drafts) say_drafts(o.generate.draft, made[0]);
  return 0;
}

}  // namespace

void add_generate_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("generate", "Complete a prompt");
  auto o = std::make_shared<GenerateCommand>();
  o->add_to(*command);
  add_thinking(*command, o->generate.control);
  add_drafts(*command, o->generate.draft);
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
