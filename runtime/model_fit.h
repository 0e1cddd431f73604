// model_fit.h - what of a model fits a card's memory: every size in every precision, with how long a context, and how
// many sequences at once. No weights are read.
//
// Weights       as the program holds them on a device with bf16 products (loaded_model.h), each size opened alone: 2
//               bytes a parameter that products read, or its codes and scales, 4 of the rest. `serve` opens a whole
//               file: that is its largest size, whichever answers.
// Caches        as decode_state.h takes them, keys and values in bf16.
// Prefill       activations and scratch of one forward over one whole prompt, on the null device: the code that runs,
//               scratch as the CPU's operators take it. Sequences that run together are taken to have come one by one.
// Precisions    of a file in 16 or 32 bits: bf16, and as `quantize` would make it FP8 and NVFP4, where it takes them;
//               of quantized weights what they are.
// Errors        kInput: no model; a size whose layers of one kind differ.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/json.h"

namespace nestling {

struct CardMemory {
  std::string name;  // "24 GiB"
  double bytes = 0;  // that a program may use
};
// 16, 24, 48, 80 and 141 GiB, less 2 GiB for driver and workspaces.
std::vector<CardMemory> usual_cards();

struct FitOnCard {
  int64_t context = 0;    // longest, of one sequence; 0: the weights do not fit
  int64_t sequences = 0;  // of FitOptions::context tokens at once
};

struct ModelFit {
  std::string size, precision;  // precision: BF16, FP8 or NVFP4
  std::string refused = {};     // why it cannot be; nothing else is told then
  int64_t parameters = 0;
  int64_t stored = 0;               // bytes of its weights in a file, as `inspect` tells
  int64_t weights = 0;              // bytes on a card
  int64_t token = 0, sequence = 0;  // bytes of caches: of a token, and of a sequence besides
  std::vector<FitOnCard> cards;     // as asked for
};

struct FitOptions {
  std::vector<CardMemory> cards;
  int64_t context = 8192;  // of `sequences`
};

std::vector<ModelFit> fit_model(const std::filesystem::path& path, const FitOptions& options);
std::string fit_text(const std::vector<ModelFit>& fits, const FitOptions& options);
std::string fit_json(const std::vector<ModelFit>& fits, const FitOptions& options);  // one line

}  // namespace nestling
