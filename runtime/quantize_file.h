// quantize_file.h - post-training quantization: an elastic file's weights as FP8 or NVFP4 codes, of all sizes at once.
//
// Calibration   every size reads the text once, in f32, on the context's device; the scale of a product's activations is that of
//               the largest any size has shown. Scales of weights need no text (model/quantization.h).
// Elasticity    scales are the parent's, so a size of the new file is a prefix of its codes, and cutting it is exact.
// Atomic        the new file is whole or absent. It may not be the old one.
// Errors        kInput: a file that is quantized already, has nothing to quantize, or whose sizes or router's choices
//               cut a block of NVFP4; weights or activations that are not finite.
// Determinism   same file, text, threads, instruction set and device: the same bytes.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/context.h"
#include "model/quantization.h"

namespace nestling {

struct QuantizeOptions {
  WeightFormat format = WeightFormat::kFp8;
  std::vector<std::string> texts;  // as data/token_documents.h opens them
  int64_t seq_len = 512;
  int64_t max_tokens = 65536;             // of each text, from its beginning
  std::vector<std::string> digests = {};  // of the texts, for the new file's provenance
  std::function<void(const std::string& size, const std::string& text)> progress =
      {};  // before each
};
void quantize_file(Context& ctx, const std::filesystem::path& from, const std::filesystem::path& to,
                   const QuantizeOptions& options);

}  // namespace nestling
