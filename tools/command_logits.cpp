#include <CLI/CLI.hpp>

#include "data/safetensors_writer.h"
#include "kernels/core/host_view.h"
#include "model/model.h"
#include "runtime/loaded_model.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct LogitsOptions : ModelOptions {
  std::vector<int32_t> token_ids;
  std::string prompt;
  bool raw = false;
  std::string out;
};

int write_logits(const LogitsOptions& o) {
  o.apply();
  LoadedModel model(o.model, o.precision(), o.size, o.device());
  std::vector<int32_t> tokens = o.token_ids;
  if (tokens.empty()) tokens = prompt_tokens(model, o.prompt, o.raw);
  const auto count = static_cast<int64_t>(tokens.size());
  NESTLING_CHECK_INPUT(count > 0, "logits: --prompt '", o.prompt, "' is no token");
  for (int64_t t = 0; t < count; ++t) {
    const int32_t id = tokens[static_cast<size_t>(t)];
    NESTLING_CHECK_INPUT(id >= 0 && id < model.config().vocab, "token ", id, " at place ", t,
                         " is outside the vocabulary of ", model.config().vocab);
  }
  Context ctx(o.device());
  Arena arena(o.device());
  const int32_t offsets[] = {0, static_cast<int32_t>(count)};
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = model.config(),
               .segments = Segments(offsets),
               .save = false,
               .activations = model.activations()};
  const auto w = model.params();
  const ModelActs acts = model_forward(run, w, device_view(ctx, arena, tokens));
  const View made = arena.alloc(DType::kF32, {count, model.config().vocab});
  model_logits(ctx, w, acts.final_norm.normed, made);
  ctx.synchronize();
  Tensor logits(Device::kCpu, DType::kF32, {count, model.config().vocab});
  copy(logits, made);
  write_safetensors(o.out, {store("logits", logits.view()), store("token_ids", host_view(tokens))});
  return 0;
}

}  // namespace

void add_logits_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("logits", "Float32 logits of a token sequence, to a file");
  auto o = std::make_shared<LogitsOptions>();
  o->add_to(*command);
  auto* input = command->add_option_group("input");
  input->add_option("--token-ids", o->token_ids, "Token ids, separated by commas")->delimiter(',');
  auto* prompt =
      input->add_option("--prompt", o->prompt, "Text: the user's turn, or -, as in generate");
  input->require_option(1);
  command->add_flag("--raw", o->raw, "Take the prompt as it is, not as a turn of a chat")
      ->needs(prompt);
  command
      ->add_option("--out", o->out,
                   "A safetensors file: tensors `logits` [T, V] and `token_ids` [T]")
      ->required();
  in_one_process(*command, exit_code, [o] { return write_logits(*o); });
}

}  // namespace nestling
