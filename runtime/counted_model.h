// counted_model.h - bytes that a size of a model takes where it runs, counted before anything of it is read.
//
// Weights       as loaded_model.h holds them, the size opened alone: f32, or with bf16 products 2 bytes of those that
//               products read; of codes codes and scales, beside which the CPU keeps f32 of what is no codes too.
// Caches        as decode_state.h takes them for those widths.
// Forward       activations and scratch in use, on the null device: the code that runs. What blocks of an arena have left
//               over comes on top. Scratch of the operators is that of
//               the CPU's, or of the device whose context is given. A program's text, its libraries, what a product library
//               holds by itself and a driver are not counted.
// Errors        kInput: no model; a size whose layers of one kind differ.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/elastic_model.h"
#include "model/quantization.h"
#include "runtime/decode_state.h"
#include "runtime/loaded_model.h"

namespace nestling {

struct DescribedModel {
  ModelConfig config;
  std::vector<Size> sizes;                   // largest first
  std::optional<Quantization> quantization;  // none: numbers
  bool elastic = false;                      // a file of several sizes
};
// config.json is enough of a directory.
DescribedModel describe_model(const std::filesystem::path& path);

struct AskedQuantization {
  Quantization quantization;  // of scales that nobody measured: extents
  std::string refused = {};   // why the size cannot have it
};
// FP8 and NVFP4 as `quantize` would make them of a size; none of what is quantized, or where no layer can be.
std::vector<AskedQuantization> possible_quantizations(const DescribedModel& model,
                                                      const Size& size);

class CountedModel {
 public:
  // `q`: of the parent's list. `real`: a context on the device, which is borrowed.
  CountedModel(const ModelConfig& parent, const Widths& widths,
               const std::optional<Quantization>& q, Precision precision, Device device,
               Context* real = nullptr);

  int64_t weight_bytes() const;
  int64_t opening_bytes() const;  // on the CPU, beside the weights, while they are read
  int64_t cache_bytes(int64_t sequences, int64_t tokens);
  // Hidden states and logits behind the newest tokens (decoder.h).
  int64_t step_bytes(int64_t sequences) const;
  int64_t prefill_bytes(int64_t tokens);  // of the forward over one prompt
  // Of what a server runs (engine.h): prompts of so many tokens together, one or as many as there are sequences, with the
  // logits of a prompt that is echoed; and a step.
  int64_t serving_bytes(int64_t sequences, int64_t tokens);

 private:
  Context context() const;
  DecodeState state(int64_t sequences, int64_t tokens);
  int64_t forward_bytes(const std::vector<int32_t>& offsets, bool echo);
  int64_t drawing_bytes(int64_t sequences, int64_t tokens);

  ModelConfig config_;
  Precision precision_;
  Device device_;
  Context* real_;
  Weights weights_;
};

// The largest n <= most that fits; 0: none does. What fits, fits where n is less.
template <class Fits>
int64_t largest_fit(int64_t most, const Fits& fits) {
  int64_t low = 0, high = most + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace nestling
