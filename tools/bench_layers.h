// bench_layers.h - what a training step costs, layer type by layer type, at the widths of a real model.
#pragma once
#include <string>
#include <vector>

namespace nestling {

struct BenchLayersOptions {
  std::string config;            // a directory with config.json
  bool tiny = false;             // narrow layers of the same types, instead of `config`
  int64_t seq_len = 0;           // 0: 8192, or 32 if tiny
  int64_t tokens = 0;            // of a step, a multiple of seq_len; 0: one sequence
  int64_t micro_batch = 0;       // sequences of one forward; 0: all of the step's
  int64_t steps = 5;             // timed of every variant, after two that warm up
  std::string compute = "bf16";  // precision of the products
  std::string activations;       // empty: bf16 on CUDA with bf16 products, else fp32
  std::string recompute = "none";
  std::string device = "cpu";
  std::vector<std::string> only;  // variants; empty: all
  int threads = 0;                // 0: all
  bool dry_run = false;           // no device: only what the null device counts
  bool json = false;
};

// Variants      pretrain: forward, cross-entropy, backward, AdamW;
//               mask/SIZE and slice/SIZE: the same of elastic distillation with a teacher of the same
//               model, under soft masks as an untrained router draws them, or as prefix views. Sizes:
//               full, and about 75% and 50% of the active parameters with every kind of width cut.
// Setting       random weights, random tokens, each sequence one document, the model's own gate with
//               the balance it happens to have: the imbalance seen is printed.
// Memory        every variant has its own. Its pools are counted on the null device before anything is
//               allocated; what does not fit the device is refused (kInput). Of a slice they are those of the
//               widest: a device is asked for them beforehand. Scratch is what the CPU's operators take.
// Prints        seconds of every part by events on the device, tokens/s, what the operators count,
//               arithmetic of the model against the device's ceilings, memory by pools, and the
//               projection to the published layers (layers_report.h).
int bench_layers(const BenchLayersOptions& options);

}  // namespace nestling
