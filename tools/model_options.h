// model_options.h - the options every command on a model shares.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "kernels/ops/sample.h"
#include "runtime/drafter.h"

namespace nestling {

// What counts may be on a command line, as in a run config: their sums and products fit int64.
inline const CLI::Range kThreadRange{1, 4096};
inline const CLI::Range kTokenRange{1, 1 << 24};

inline constexpr const char* kModelHelp = "An elastic .h5, a Hugging Face directory or a .gguf";

struct ModelOptions {
  std::string model;             // an elastic file, a Hugging Face directory or a GGUF file
  std::string size;              // of an elastic file; empty: the largest
  std::string compute = "fp32";  // precision of the products
  std::string activations;       // empty: bf16 on cuda with bf16 products, else fp32
  std::string on = "cpu";        // cpu or cuda
  int threads = 0;               // 0: all cores
  bool json = false;

  void add_to(CLI::App& command);
  // Throws kInput: bf16 activations without bf16 products, or on the CPU.
  Precision precision() const;
  Device device() const { return parse_device(on); }
  void apply() const;  // the thread count
};

// A user's turn and the opening of the answer, thinking on, by the model's own chat template; `raw`: the text with what
// the tokenizer puts around it. A prompt "-" is what standard input holds.
// Throws kInput where there is no template.
std::vector<int32_t> prompt_tokens(const LoadedModel& model, const std::string& prompt, bool raw);

// --think, --answer and --think-budget, beside ModelOptions: instead of its --size.
void add_thinking(CLI::App& command, ThinkingControl& control);

// --draft and --draft-tokens.
void add_drafts(CLI::App& command, DraftControl& draft);

// How the next token is drawn; add_sampling: and from which seed.
void add_sampling_rule(CLI::App& command, SamplingRule& rule);
void add_sampling(CLI::App& command, SamplingRule& rule, uint64_t& seed);

}  // namespace nestling
