// model_options.h - the options every command on a model shares.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "kernels/core/view.h"
#include "kernels/ops/sample.h"

namespace nestling {

struct ModelOptions {
  std::string model;             // a Hugging Face directory or an elastic file
  std::string size;              // of an elastic file; empty: the largest
  std::string compute = "fp32";  // precision of the products
  std::string on = "cpu";        // cpu or cuda
  int threads = 0;               // 0: all cores
  bool json = false;

  void add_to(CLI::App& command);
  DType compute_type() const { return compute == "bf16" ? DType::kBF16 : DType::kF32; }
  Device device() const { return parse_device(on); }
  void apply() const;  // the thread count
};

// How the next token is drawn.
void add_sampling(CLI::App& command, SamplingRule& rule, uint64_t& seed);

}  // namespace nestling
