// bench_train.h - speed of one optimizer step of pretraining, on random tokens.
#pragma once
#include <string>

namespace nestling {

struct BenchTrainOptions {
  std::string config;    // a directory with config.json
  bool tiny = false;     // a model for tests, instead of `config`
  int64_t seq_len = 0;   // 0: 512, or 16 if tiny
  int64_t batch = 0;     // sequences a step; 0: 8, or 2 if tiny
  int64_t steps = 6;     // timed, after two that warm up
  bool weights = false;  // those of the directory; otherwise random
  std::string device = "cpu";
  std::string compute = "fp32";  // precision of the products
  std::string activations;       // empty: bf16 on CUDA with bf16 products, else fp32
  int threads = 0;               // 0: all
  bool json = false;
};

// Prints tokens/s (median of the steps, timed by the clock until the device has done them), work per step as
// the operators count it, memory; with --json also loss and gradient norm of the first step, which
// another program on the same weights and tokens must find, and what is held by pools.
int bench_train(const BenchTrainOptions& options);

}  // namespace nestling
