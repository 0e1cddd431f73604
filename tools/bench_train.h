// bench_train.h - speed of one optimizer step of pretraining, on random tokens.
#pragma once
#include <string>

namespace nestling {

struct BenchTrainOptions {
  std::string config;  // a directory with config.json
  int64_t seq_len = 512;
  int64_t batch = 8;             // sequences a step
  int64_t steps = 6;             // timed, after two that warm up
  bool weights = false;          // those of the directory; otherwise random
  std::string compute = "fp32";  // precision of the products
  int threads = 0;               // 0: all
  bool json = false;
};

// Prints tokens/s (median of the steps), work per step as the operators count it, peak memory; with
// --json also loss and gradient norm of the first step, which another program on the same weights
// and tokens must find.
int bench_train(const BenchTrainOptions& options);

}  // namespace nestling
