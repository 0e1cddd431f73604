#include <CLI/CLI.hpp>
#include <cstdio>

#include "runtime/slice.h"
#include "tools/commands.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct SliceCommand {
  std::string source, target, size;
  std::string precision = "bf16";
};

int slice(const SliceCommand& o) {
  if (o.precision == "bf16" || o.precision == "fp32")
    write_slice(o.source, o.size, o.target,
                o.precision == "fp32" ? StoredType::kF32 : StoredType::kBF16);
  else
    write_quantized_slice(o.source, o.size, o.target,
                          parse_weight_format(o.precision, "slice --precision"));
  std::printf("%s, size %s: %s\n", o.source.c_str(), o.size.c_str(), o.target.c_str());
  return 0;
}

}  // namespace

void add_slice_command(CLI::App& app, int& exit_code) {
  auto* command =
      app.add_subcommand("slice", "Cut a size out of an elastic model: a Hugging Face directory");
  auto o = std::make_shared<SliceCommand>();
  command->add_option("--source-checkpoint", o->source, "An elastic .h5")->required();
  command->add_option("--target-checkpoint", o->target, "Directory to make")->required();
  command->add_option("--size", o->size, "Size to cut out: its name, or a budget as 65% or 1.8e6")
      ->required();
  command
      ->add_option("--precision", o->precision,
                   "bf16 or fp32; of a quantized file its fp8 or nvfp4")
      ->check(CLI::IsMember({"bf16", "fp32", "fp8", "nvfp4"}))
      ->capture_default_str();
  in_one_process(*command, exit_code, [o] { return slice(*o); });
}

}  // namespace nestling
