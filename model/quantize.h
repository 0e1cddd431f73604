// quantize.h - makes codes of weights (model/quantization.h says of which, and by which scales).
//
// Device        the CPU; make_codes() any.
// Rounding      as kernels/ops/fp8_linear.h and nvfp4_linear.h say: to the nearest code, ties to even.
#pragma once
#include <span>

#include "model/weights.h"

namespace nestling {

// Scales of weights by their largest values; a tensor of zeros has scale 1. Those of activations are left zero.
// `from`: f32 masters, in any order of units.
Quantization weight_scales(const ModelConfig& config, WeightFormat format, const Weights& from);

// Those of activations, from the largest seen of each parameter of the list (0: none, scale 1).
void set_input_scales(Quantization& q, const ModelConfig& config, std::span<const float> largest);

// Scales of 1 for all that is quantized, where a null device needs no others.
Quantization unit_scales(const ModelConfig& config, WeightFormat format);

// One parameter's codes, on the context's device.
struct MakeCodes {
  const ParameterSpec& spec;
  View codes, block_scales;  // as Weights has them, overwritten
  ConstView values;          // f32, of the parameter's shape
  std::span<const float> scales;
};
void make_codes(Context& ctx, const MakeCodes& a);

// Codes of what q quantizes, the masters of `from` for the rest.
Weights quantize_weights(Context& ctx, const ModelConfig& config, const Weights& from,
                         Quantization q, DType compute);

}  // namespace nestling
