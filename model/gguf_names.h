// gguf_names.h - published tensors under llama.cpp's names and in its forms, by the table of their
// architecture: what export and import of GGUF files share.
#pragma once
#include <string>
#include <vector>

#include "model/gguf_architecture.h"
#include "model/parameters.h"

namespace nestling {

struct GgufPlace {
  std::string name;
  GgufForm form;
  int64_t first_row, rows;  // those of the published tensor that it holds, of each expert
  int64_t head_dim;

  // The published row that lies at row `row` here, and back. Of kRotated row i of the first half of a
  // head and row i of its second half lie beside each other.
  int64_t published_row(int64_t row) const;
  int64_t row_of(int64_t published) const;
};
GgufPlace place_in_gguf(const ModelConfig& config, const ParameterSpec& spec);
// Outermost first; of experts all of them.
std::vector<int64_t> gguf_shape(const ModelConfig& config, const ParameterSpec& spec,
                                const GgufPlace& place);
std::string gguf_conv_bias(const ModelConfig& config, int64_t layer);
// "blk.0.ssm_in" of "blk.0.ssm_in.weight": what stands beside a tensor begins so.
std::string gguf_module(const std::string& name);

inline bool is_product(GgufForm form) {
  return form == GgufForm::kProduct || form == GgufForm::kRotated;
}
// A number in this form, and back. Of kNegativeExp back is a number whose exponential is the one
// given, that of fewest bits where there are several: bf16 if one is.
float to_gguf_form(GgufForm form, float x);
float from_gguf_form(GgufForm form, float x);

}  // namespace nestling
