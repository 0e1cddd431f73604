#include <CLI/CLI.hpp>
#include <cstdio>

#include "kernels/core/parallel.h"
#include "runtime/quantize_file.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"
#include "trainer/training_text.h"

namespace nestling {

namespace {

struct QuantizeCommand : QuantizeOptions {
  std::string model, out, format_name, on = "cpu";
  int threads = 0;
};

int quantize(QuantizeCommand& o) {
  if (o.threads > 0) set_thread_count(o.threads);
  o.format = parse_weight_format(o.format_name, "quantize --format");
  for (const std::string& text : o.texts) o.digests.push_back(digest_of_text(text));
  o.progress = [](const std::string& size, const std::string& text) {
    std::printf("calibrating: size %s on %s\n", size.c_str(), text.c_str());
    std::fflush(stdout);
  };
  Context ctx(parse_device(o.on));
  quantize_file(ctx, o.model, o.out, o);
  std::printf("%s in %s: %s\n", o.model.c_str(), weight_format_name(o.format), o.out.c_str());
  return 0;
}

}  // namespace

void add_quantize_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "quantize", "Quantize all sizes of an elastic model at once, without training");
  auto o = std::make_shared<QuantizeCommand>();
  command->add_option("MODEL", o->model, "An elastic .h5")->required();
  command->add_option("--format", o->format_name, "fp8 or nvfp4")
      ->required()
      ->check(CLI::IsMember({"fp8", "nvfp4"}));
  command->add_option("--out", o->out, "File to make")->required();
  command
      ->add_option("--data", o->texts,
                   "Text to calibrate activations by, as eval --data; repeatable")
      ->required();
  command->add_option("--seq-len", o->seq_len, "Tokens a window")
      ->check(kTokenRange)
      ->capture_default_str();
  command->add_option("--max-tokens", o->max_tokens, "Tokens of each text")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--device", o->on, "What calibrates: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--threads", o->threads, "Threads (default: all)")->check(kThreadRange);
  in_one_process(*command, exit_code, [o] { return quantize(*o); });
}

}  // namespace nestling
