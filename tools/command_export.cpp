#include <CLI/CLI.hpp>
#include <cstdio>

#include "runtime/export_gguf.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct ExportCommand {
  std::string model, size, out, precision;
  std::string tokenizer = "gpt2";
};

int export_model(const ExportCommand& o) {
  GgufOptions options{.type = {}, .tokenizer = o.tokenizer != "none"};
  if (!o.precision.empty()) options.type = parse_gguf_precision(o.precision, "export --precision");
  const GgufExport done = export_gguf(o.model, o.size, o.out, options);
  for (const std::string& note : done.notes) std::printf("note: %s\n", note.c_str());
  std::printf("%s%s%s in %s: %s, %lld tensors, %lld bytes of weights\n", o.model.c_str(),
              o.size.empty() ? "" : ", size ", o.size.c_str(), ggml_type_name(done.type),
              o.out.c_str(), static_cast<long long>(done.tensors),
              static_cast<long long>(done.bytes));
  return 0;
}

}  // namespace

void add_export_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("export", "Write a size as a GGUF file, for llama.cpp");
  auto o = std::make_shared<ExportCommand>();
  command->add_option("MODEL", o->model, kModelHelp)->required();
  command->add_option("--size", o->size,
                      "Size of an elastic .h5: its name, or a budget as 65% or 1.8e6");
  command->add_option("--out", o->out, "File to make")->required();
  command
      ->add_option("--precision", o->precision,
                   "bf16, fp32, fp16, q8_0, or of an NVFP4 file nvfp4 (default: that, else bf16)")
      ->check(CLI::IsMember({"bf16", "fp32", "fp16", "q8_0", "nvfp4"}));
  command
      ->add_option("--tokenizer", o->tokenizer,
                   "gpt2: the model's own; none: a model of token ids, without one")
      ->check(CLI::IsMember({"gpt2", "none"}))
      ->capture_default_str();
  in_one_process(*command, exit_code, [o] { return export_model(*o); });
}

}  // namespace nestling
