// quantization.h - which parameters of a model are codes of FP8 or NVFP4, and by which scales.
//
// Quantized     the products of Mamba, dense and expert layers, as NVIDIA quantizes Nemotron 3 Nano: attention and the
//               Mamba layer that feeds one stay as they are, and so do embeddings, head, gates, norms and convolutions.
// Scales        of weights: FP8 largest / 448, NVFP4 largest / 2688, over the whole published tensor (in_proj's five
//               parts share one), of stacked experts one each. Of activations the same of the largest that
//               calibration saw in any size; stacked experts share one. All are the parent's: a size's codes are a
//               prefix of its codes.
// NVFP4         every quantized parameter's last dimension is a multiple of 16, in every size.
// Source        ModelOpt's FP8 and NVFP4 checkpoints; Nemotron 3 Nano report (which layers stay in bf16).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/elastic_layout.h"

namespace nestling {

enum class WeightFormat : uint8_t { kFp8, kNvfp4 };
const char* weight_format_name(WeightFormat format);   // fp8, nvfp4
const char* weight_format_label(WeightFormat format);  // FP8, NVFP4: what weights are stored as
WeightFormat parse_weight_format(const std::string& name,
                                 const std::string& where);  // throws kInput
// A tensor whose largest value is this has the scale 1: 448, 2688.
float weight_format_largest(WeightFormat format);

struct TensorScales {
  std::vector<float> weight;  // one; of stacked experts one each
  float input = 0;
  bool operator==(const TensorScales&) const = default;
};
struct Quantization {
  WeightFormat format = WeightFormat::kFp8;
  std::vector<std::optional<TensorScales>>
      parameters;  // of the parameter list; none: it stays as it is
};

// Throws kInput unless products take these scales: finite, above zero, and the product with that of the activations a
// normal f32; of NVFP4 their 512th part is one too, and 2688 times they are finite. `where`: "FILE: GROUP".
void check_scales(const TensorScales& scales, WeightFormat format, const std::string& where);
// Throws kInput where a byte is a NaN of E4M3, or, of the scales of blocks, below zero. `where`: "FILE: TENSOR".
void check_codes(std::span<const std::byte> codes, bool of_blocks, const std::string& where);
// Throws kInput naming `what` whose weights are needed as they were: "WHERE: its weights are fp8 codes; ...".
void check_not_quantized(const std::optional<Quantization>& q, const std::string& where,
                         const std::string& what);

// Throws kInput unless the parts of every published tensor (in_proj has five) are codes by the same scales, or none is.
void check_whole_tensors(const ModelConfig& config, const Quantization& q,
                         const std::string& where);

// Whether a layer takes codes of it at all (model/layers/product.h).
bool takes_codes(const ModelConfig& config, const ParameterSpec& spec);
// Whether each parameter of the list is one to quantize.
std::vector<bool> quantized_parameters(const ModelConfig& config);
// Throws kInput naming the first quantized parameter that a size of these widths cuts inside a block.
void check_quantizable(const ModelConfig& config, WeightFormat format, const Widths& widths,
                       const std::string& where);
// Of the parameters of one size: experts that are left out have no scale.
Quantization sized_quantization(const std::vector<SizedParameter>& parameters,
                                const Quantization& parent);

}  // namespace nestling
