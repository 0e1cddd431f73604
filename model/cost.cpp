#include "model/cost.h"

#include "model/parameters.h"

namespace nestling {

ParameterCost parameter_cost(const ModelConfig& config) {
  ParameterCost cost;
  for (const ParameterSpec& spec : parameter_list(config)) {
    cost.total += spec.size();
    cost.active += spec.stacked() ? spec.size() / config.experts * config.top_k : spec.size();
  }
  return cost;
}

}  // namespace nestling
