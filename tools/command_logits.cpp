#include <CLI/CLI.hpp>

#include "data/safetensors_writer.h"
#include "model/model.h"
#include "runtime/loaded_model.h"
#include "tools/commands.h"
#include "tools/model_options.h"

namespace nestling {

namespace {

struct LogitsOptions : ModelOptions {
  std::vector<int32_t> token_ids;
  std::string out;
};

int write_logits(const LogitsOptions& o) {
  o.apply();
  LoadedModel model(o.model, o.compute_type());
  const auto count = static_cast<int64_t>(o.token_ids.size());
  Tensor ids(Device::kCpu, DType::kI32, {count});
  for (int64_t t = 0; t < count; ++t) {
    const int32_t id = o.token_ids[static_cast<size_t>(t)];
    NESTLING_CHECK_INPUT(id >= 0 && id < model.config().vocab, "--token-ids: ", id, " at place ", t,
                         " is outside the vocabulary of ", model.config().vocab);
    ids.ptr<int32_t>()[t] = id;
  }
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  const int32_t offsets[] = {0, static_cast<int32_t>(count)};
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = model.config(),
               .segments = Segments(offsets),
               .save = false};
  const auto w = model.params();
  const ModelActs acts = model_forward(run, w, ids.view());
  Tensor logits(Device::kCpu, DType::kF32, {count, model.config().vocab});
  model_logits(ctx, w, acts.final_norm.normed, logits.view());
  write_safetensors(o.out, {store("logits", logits.view())});
  return 0;
}

}  // namespace

void add_logits_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("logits", "Float32 logits of a token sequence, to a file");
  auto o = std::make_shared<LogitsOptions>();
  o->add_to(*command);
  command->add_option("--token-ids", o->token_ids, "Token ids, separated by commas")
      ->delimiter(',')
      ->required();
  command->add_option("--out", o->out, "A safetensors file: tensor `logits` [T, V]")->required();
  command->callback([o, &exit_code] { exit_code = write_logits(*o); });
}

}  // namespace nestling
