// gguf_import.h - models in from GGUF files of the architectures that model/gguf.h writes, by the
// same lists of keys and tensors, read the other way.
//
// Config        from the keys of the architecture, and ids of special tokens from those of the
//               tokenizer; Llama 3's scaling of positions from its factors (gguf_rope.h). A bias of the convolution that is zero in every layer is none. What no
//               key says, how the scan is cut, is nestling.chunk_size where this program wrote the
//               file, else 128: it changes rounding alone.
// Tensors       to slot-major masters, as the numbers they stand for (ggml_type.h). NVFP4 stays codes, with the scales beside it; of several input scales of
//               experts the largest. ssm_a is -exp(A_log): A_log is a number of which that is so.
//               Rows of query and key heads that lie in pairs go back to their halves; of nemotron_h,
//               which has no positions, they are taken as they stand: llama.cpp's converter puts
//               them in another order within each head, of both alike, and the products are the same.
// Refused       kInput naming file and key or tensor: other architectures, tensors that are
//               missing, extra, of another shape or not finite, NVFP4 where no layer takes codes,
//               layers of one kind with different widths, latent experts, a model in several files.
// Source        as model/gguf.h; llama.cpp: conversion/nemotron.py.
#pragma once
#include "data/gguf_reader.h"
#include "model/elastic_file.h"
#include "model/order.h"
#include "model/weights.h"

namespace nestling {

// Of the keys alone, not validated: the tensors have their part in a config.
ModelConfig gguf_keys_config(const GgufFile& file);
// The whole, validated; the tensors are those it asks for, before memory is taken for them.
ModelConfig read_gguf_config(const GgufFile& file);
// The scales of what is NVFP4; none: nothing is.
std::optional<Quantization> read_gguf_quantization(const GgufFile& file, const ModelConfig& config);
// Fills what the weights hold of them, on any device, codes on the CPU alone; with `order` (not of codes) their units in
// that order; and refreshes the low copies.
void import_gguf_weights(const GgufFile& file, const ModelConfig& config, Weights& weights,
                         const Order* order = nullptr);
// The parameters of the list one after another, for write_elastic(). Borrows all that it is given; the memory of one
// parameter is used for the next.
ParameterSource gguf_parameters(const GgufFile& file, const ModelConfig& config,
                                const Order* order = nullptr);

}  // namespace nestling
