// huggingface_codes.h - FP8 and NVFP4 weights in Hugging Face directories, as NVIDIA's ModelOpt publishes them and vLLM
// reads them. For model/huggingface.cpp.
//
// FP8           X.weight F8_E4M3 [out, in]; X.weight_scale, X.input_scale F32 scalars.
// NVFP4         X.weight U8 [out, in/2]; X.weight_scale F8_E4M3 [out, in/16]; X.weight_scale_2, X.input_scale F32 scalars.
// Config        quantization_config in config.json, and the same in hf_quant_config.json; caches are not quantized.
// Experts       their input scales are one here: of those read, the largest, as vLLM takes it.
// Left out      scales of cached keys and values (k_scale, v_scale): caches are kept in the activations' type.
#pragma once
#include "data/json.h"
#include "data/safetensors_writer.h"
#include "model/published_rows.h"
#include "model/published_tensors.h"

namespace nestling {

// The scales of what is stored as codes, each tensor of the shape that config asks for; none: nothing is. Throws kInput:
// other types, formats mixed, scales that are missing or of no use.
std::optional<Quantization> read_quantization(PublishedTensors& tensors, const ModelConfig& config);
// Codes and scales of blocks of parameter i in memory order. NaN codes are refused.
void import_codes(PublishedTensors& tensors, Weights& weights, int64_t i);

// Appends the tensors of a published quantized weight. `weights` must outlive the writing.
void store_codes(const Weights& weights, const NamedPublished& tensor,
                 std::vector<TensorToStore>& tensors);
// quantization_config into `config`, and hf_quant_config.json into the directory.
void add_quantization_config(const std::filesystem::path& directory, const Weights& weights,
                             Json& config);

}  // namespace nestling
