// cost.h - what a model costs: parameters in all, and those one token touches.
//
// Active        embedding, head, norms, gates, mixers, shared expert and top-k of the routed experts.
//               A tied head counts once. Buffers (the gate's selection bias) count as parameters, as in
//               the published totals.
#pragma once
#include "model/config.h"

namespace nestling {

struct ParameterCost {
  int64_t total = 0;
  int64_t active = 0;
};

ParameterCost parameter_cost(const ModelConfig& config);

}  // namespace nestling
