// step_setting.h - what the benchmarks of whole steps (train, elastic, layers) share, and of precision every command
// on a model.
#pragma once
#include <cstdint>
#include <string>

#include "model/config.h"
#include "trainer/config.h"

namespace nestling::bench {

// Nemotron 3 Nano's layer types at widths for a test: --tiny.
ModelConfig tiny_model();

// Distinct values of a tensor of random weights: a prime, so that rows of a power of two differ.
inline constexpr int64_t kDistinctWeights = 1'048'573;

// As a config's is settled (settle_precision), which throws kInput, naming `command`.
PrecisionConfig precision_on(const std::string& device, const std::string& compute,
                             const std::string& activations, const std::string& command);

}  // namespace nestling::bench
