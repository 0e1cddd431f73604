// gguf.h - a model of one size as llama.cpp reads it from a GGUF file, in one of the architectures of
// model/gguf_architecture.h.
//
// Tensors       those of the published layout under llama.cpp's names, in published order
//               (model/published_rows.h): A is -exp(A_log), the convolution [C, K], the gated norm
//               [groups, I / groups], experts stacked; without a bias of the convolution, which
//               llama.cpp always adds, zeros. Rows of query and key heads lie in pairs where
//               llama.cpp turns neighbours (llama, granitehybrid).
// Types         products, embeddings and head in the type asked for; all else F32, gates included.
//               kNvfp4: the codes of the weights as they are, with the tensor's scale in NAME.scale
//               and that of its input in NAME.input_scale (of experts one each); what is not
//               quantized in BF16. Any other type of a weight that is codes: what they stand for,
//               rounded to it.
// Refused       kInput naming what llama.cpp cannot be told (`check` of the architecture): dense and
//               expert layers in one model, which it reads as one kind; a row that is no whole
//               blocks of the type; a number beyond F16.
// The way back is model/gguf_import.h, over the same lists (gguf_architecture.h, gguf_names.h).
// Source        llama.cpp: src/models/mamba-base.cpp, src/llama-model.cpp, src/llama-graph.cpp.
#pragma once
#include <string>
#include <vector>

#include "data/gguf_writer.h"
#include "model/weights.h"

namespace nestling {

// Throws where llama.cpp does not run this architecture. `where` stands in messages for the model.
void check_gguf_config(const ModelConfig& config, const std::string& where);
// "nemotron_h_moe".
std::string gguf_architecture(const ModelConfig& config);
// Of the architecture alone: widths and rules, all under its name.
std::vector<GgufKey> gguf_model_keys(const ModelConfig& config);

// `weights` on the CPU must outlive the writing.
std::vector<GgufTensor> gguf_tensors(const ModelConfig& config, const Weights& weights,
                                     GgmlType type, const std::string& where);

}  // namespace nestling
