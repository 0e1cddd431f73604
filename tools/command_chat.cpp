#include <CLI/CLI.hpp>
#include <iostream>
#include <unistd.h>

#include "runtime/chat.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct ChatCommand : ModelOptions {
  ChatOptions chat;
  bool no_thinking = false;
};

int run_chat(ChatCommand& o) {
  o.apply();
  LoadedModel model(o.model, o.precision(), "", o.device());  // the whole: /size switches
  if (!o.size.empty()) model.select(o.size);
  Context ctx(o.device());
  o.chat.thinking = !o.no_thinking;
  ChatSession session(ctx, model, o.chat);
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal && o.chat.control.has_sizes())
    std::cout << model.name() << ", size " << o.chat.control.think << " thinks, "
              << o.chat.control.answer << " answers. /reset, /quit.\n";
  else if (terminal)
    std::cout << model.name() << ", size " << model.size() << ". /size NAME, /reset, /quit.\n";
  chat(session, std::cin, std::cout, terminal);
  return 0;
}

}  // namespace

void add_chat_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("chat", "Talk to a model, line by line");
  auto o = std::make_shared<ChatCommand>();
  o->add_to(*command);
  command->add_option("--system", o->chat.system, "The system's message");
  CLI::Option* no_thinking =
      command->add_flag("--no-thinking", o->no_thinking, "Ask for an answer without thinking");
  add_thinking(*command, o->chat.control);
  for (const char* name : {"--think", "--answer", "--think-budget"})
    no_thinking->excludes(command->get_option(name));
  command->add_option("--context", o->chat.context, "Tokens of the conversation")
      ->check(kTokenRange)
      ->capture_default_str();
  command->add_option("--max-new-tokens", o->chat.max_new_tokens, "Of an answer")
      ->check(kTokenRange)
      ->capture_default_str();
  add_sampling(*command, o->chat.rule, o->chat.seed);
  in_one_process(*command, exit_code, [o] { return run_chat(*o); });
}

}  // namespace nestling
