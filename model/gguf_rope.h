// gguf_rope.h - Llama 3's scaling of positions as GGUF files have it: rope_freqs.weight, by which the
// frequency of each pair of channels is divided.
//
// Forth         1 for what turns often within the original context, the factor for what turns seldom,
//               in between one over a blend of both (kernels/ops/rope.h), in f32.
// Back          a scaling that gives these factors again, within 1e-6 of each. As every published one
//               it has a low_freq_factor of 1, a high_freq_factor that is whole and an original
//               length that is a power of two; where another has the same factors, its positions are
//               the same. Factors that no such scaling gives are refused, naming the tensor.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "kernels/ops/rope.h"

namespace nestling {

inline constexpr const char* kRopeFactors = "rope_freqs.weight";

std::vector<float> gguf_rope_factors(int64_t rotary, double theta, const RopeScaling& scaling);
// None: no such scaling is known.
std::optional<RopeScaling> rope_scaling_of(std::span<const float> factors, double theta);

}  // namespace nestling
