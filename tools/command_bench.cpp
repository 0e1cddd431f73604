#include <CLI/CLI.hpp>

#include "kernels/core/isa.h"
#include "tools/bench_device.h"
#include "tools/bench_elastic.h"
#include "tools/bench_importance.h"
#include "tools/bench_layers.h"
#include "tools/bench_memory.h"
#include "tools/bench_ops.h"
#include "tools/bench_train.h"
#include "tools/commands.h"
#include "tools/one_process.h"
#include "tools/set_option.h"

namespace nestling {

namespace {

void add_cuda_isa(CLI::App& command) {
  command
      .add_option_function<std::string>(
          "--cuda-isa", [](const std::string& name) { set_cuda_isa(parse_cuda_isa(name)); },
          "sm_80 or sm_90a (default: what the device has)")
      ->check(CLI::IsMember({"sm_80", "sm_90a"}));
}

// Options that the benchmarks of whole steps share.
template <class Options>
void add_setting(CLI::App& command, Options& o) {
  command.add_option("--device", o.device, "Where it computes: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--compute", o.compute, "Precision of the products: fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command
      .add_option("--activations", o.activations,
                  "Between the operators: fp32 or bf16 (default: bf16 on cuda with bf16 products)")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command.add_option("--threads", o.threads, "Threads (default: all)")->check(CLI::PositiveNumber);
  add_cuda_isa(command);
  command.add_flag("--json", o.json, "Print one JSON object");
}

void add_ops(CLI::App& bench, int& exit_code) {
  auto* ops = bench.add_subcommand("ops", "Speed of every operator against this machine's peaks");
  auto options = std::make_shared<BenchOpsOptions>();  // lives as long as the callback
  ops->add_flag("--json", options->json, "Print one JSON object");
  ops->add_flag("--check-floors", options->check_floors,
                "Exit with 1 and name the operators that are slower than they must be");
  ops->add_option("--device", options->device, "Where they compute: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  ops->add_flag("--tiny", options->tiny, "A few rows of each, to see that they run");
  ops->add_option("--threads", options->threads, "Threads (default: all)")
      ->check(CLI::PositiveNumber);
  ops->add_option("--cpu-isa", options->cpu_isa, "avx2, avx512 or avx512_bf16 (default: the best)");
  add_cuda_isa(*ops);
  ops->add_option("--only", options->only, "Operators whose name begins with this");
  in_one_process(*ops, exit_code, [options] { return bench_ops(*options); });
}

void add_train(CLI::App& bench, int& exit_code) {
  auto* train = bench.add_subcommand("train", "Speed of an optimizer step, on random tokens");
  auto options = std::make_shared<BenchTrainOptions>();
  train->add_option("CONFIG", options->config, "A directory with config.json");
  train->add_flag("--tiny", options->tiny, "A small model for tests instead of CONFIG");
  train->add_flag("--weights", options->weights, "The weights of CONFIG (default: random)");
  train
      ->add_option("--seq-len", options->seq_len,
                   "Tokens a sequence (default: 512, or 16 with --tiny)")
      ->check(CLI::PositiveNumber);
  train->add_option("--batch", options->batch, "Sequences a step (default: 8, or 2 with --tiny)")
      ->check(CLI::PositiveNumber);
  train->add_option("--steps", options->steps, "Steps timed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_setting(*train, *options);
  in_one_process(*train, exit_code, [options] { return bench_train(*options); });
}

void add_importance(CLI::App& bench, int& exit_code) {
  auto* command = bench.add_subcommand(
      "importance", "Loss of cutting each axis by its score, by chance and in reverse");
  auto o = std::make_shared<BenchImportanceOptions>();
  command->add_option("MODEL", o->model, "A Hugging Face directory with a tokenizer")->required();
  command->add_option("--calibration", o->calibration, "Texts scores are taken from")->required();
  command->add_option("--held-out", o->held_out, "Texts losses are taken from")->required();
  command->add_option("--seq-len", o->seq_len, "Tokens a sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--samples", o->samples, "Calibration sequences")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--depth-samples", o->depth_samples, "Of them, for the search of layers")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--evaluated", o->evaluated, "Sequences of each held-out text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--orders", o->orders, "Random orders")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->add_option("--threads", o->threads, "Threads (default: all)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", o->json, "Print one JSON object as the last line");
  in_one_process(*command, exit_code, [o] { return bench_importance(*o); });
}

void add_memory(CLI::App& bench, int& exit_code) {
  auto* command = bench.add_subcommand(
      "memory", "Peak memory of one optimizer step of an elastic run, on random tokens");
  auto o = std::make_shared<BenchMemoryOptions>();
  command->add_option("CONFIG", o->config, "YAML file of the run")->required();
  add_set_option(*command, o->set);
  command->add_option("--seq-len", o->seq_len, "Tokens of the one sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--mode", o->mode, "mask, or slice: as with choices frozen")
      ->check(CLI::IsMember({"mask", "slice"}))
      ->capture_default_str();
  command->add_option("--size", o->size, "The size trained (default: the parent's)");
  command->add_flag("--json", o->json, "Print one JSON object as the last line");
  in_one_process(*command, exit_code, [o] { return bench_memory(*o); });
}

void add_device(CLI::App& bench, int& exit_code) {
  auto* device = bench.add_subcommand("device", "What CUDA devices are here, as one JSON object");
  in_one_process(*device, exit_code, [] { return bench_device(); });
}

void add_elastic(CLI::App& bench, int& exit_code) {
  auto* elastic = bench.add_subcommand("elastic", "What a step of elastic distillation costs");
  auto o = std::make_shared<BenchElasticOptions>();
  elastic->add_option("CONFIG", o->config, "Of an elastic run: sizes, text, optimizer")
      ->capture_default_str();
  elastic->add_option("--parent", o->parent, "A Hugging Face directory (default: the config's)");
  elastic->add_flag("--tiny", o->tiny, "Short steps, for tests");
  elastic
      ->add_option("--seq-len", o->seq_len, "Tokens a sequence (default: 512, or 16 with --tiny)")
      ->check(CLI::PositiveNumber);
  elastic->add_option("--batch", o->batch, "Sequences a step (default: 8, or 1 with --tiny)")
      ->check(CLI::PositiveNumber);
  elastic
      ->add_option("--rounds", o->rounds,
                   "Steps timed of every variant (default: 7, or 1 with --tiny)")
      ->check(CLI::PositiveNumber);
  elastic->add_option("--only", o->only, "Variants: slice/SIZE, slice/all, mask/SIZE, mask/all")
      ->delimiter(',');
  elastic->add_option("--peer-files", o->peer_files,
                      "Write what another program needs for the same steps to this folder");
  add_setting(*elastic, *o);
  in_one_process(*elastic, exit_code, [o] { return bench_elastic(*o); });
}

void add_layers(CLI::App& bench, int& exit_code) {
  auto* layers = bench.add_subcommand(
      "layers",
      "A training step part by part, of a model of random weights; projected to 52 layers");
  auto o = std::make_shared<BenchLayersOptions>();
  layers->add_option("--config", o->config, "A directory with config.json");
  layers->add_flag("--tiny", o->tiny, "A model for tests instead of --config");
  layers
      ->add_option("--seq-len", o->seq_len, "Tokens a sequence (default: 8192, or 32 with --tiny)")
      ->check(CLI::PositiveNumber);
  layers->add_option("--tokens", o->tokens, "Tokens a step (default: one sequence)")
      ->check(CLI::PositiveNumber);
  layers->add_option("--micro-batch", o->micro_batch, "Sequences of one forward (default: all)")
      ->check(CLI::PositiveNumber);
  layers->add_option("--steps", o->steps, "Steps timed of every variant")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  layers->add_option("--recompute", o->recompute, "none, or layer: keep every layer's input alone")
      ->check(CLI::IsMember({"none", "layer"}))
      ->capture_default_str();
  layers->add_option("--only", o->only, "Variants (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"pretrain", "mask/full", "mask/75%", "mask/50%", "slice/full",
                             "slice/75%", "slice/50%"}));
  layers->add_flag("--dry-run", o->dry_run, "Count memory and work on no device; run nothing");
  add_setting(*layers, *o);
  in_one_process(*layers, exit_code, [o] { return bench_layers(*o); });
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  auto* bench = app.add_subcommand("bench", "Measure the program's own speed");
  bench->require_subcommand(1);
  add_ops(*bench, exit_code);
  add_train(*bench, exit_code);
  add_elastic(*bench, exit_code);
  add_layers(*bench, exit_code);
  add_importance(*bench, exit_code);
  add_memory(*bench, exit_code);
  add_device(*bench, exit_code);
}

}  // namespace nestling
