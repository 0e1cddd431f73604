// gguf_names.h - published tensors under llama.cpp's names and in its forms: the one table that
// export and import of GGUF files share.
#pragma once
#include <string>
#include <vector>

#include "model/parameters.h"

namespace nestling {

// How a published tensor is written.
enum class GgufForm : uint8_t {
  kPlain,        // as it is: F32
  kProduct,      // as it is, in the type asked for
  kConv,         // [C, 1, K] as [C, K]
  kNegativeExp,  // [H] as [H, 1], of x -exp(x)
  kColumn,       // [H] as [H, 1]
  kGroups,       // [I] as [groups, I / groups]
};

struct GgufPlace {
  std::string name;
  GgufForm form;
};
GgufPlace place_in_gguf(const ParameterSpec& spec);
// Outermost first; of experts all of them.
std::vector<int64_t> gguf_shape(const ModelConfig& config, const ParameterSpec& spec,
                                GgufForm form);
// "blk.0.ssm_in" of "blk.0.ssm_in.weight": what stands beside a tensor begins so.
std::string gguf_module(const std::string& name);

// A number in this form, and back. Of kNegativeExp back is a number whose exponential is the one
// given, that of fewest bits where there are several: bf16 if one is.
float to_gguf_form(GgufForm form, float x);
float from_gguf_form(GgufForm form, float x);

}  // namespace nestling
