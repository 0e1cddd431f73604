#include "model/cost.h"

#include "model/parameters.h"

namespace nestling {

namespace {

// A product of widths and constants, times the probability that its layer is kept.
class Term {
 public:
  Term(const ExpectedWidths& widths, int64_t layer) : widths_(widths), layer_(layer) {
    if (layer >= 0) times(Axis::kLayers);
  }
  Term& times(double constant) {
    constant_ *= constant;
    return *this;
  }
  Term& times(Axis axis) {
    axes_.push_back(axis);
    return *this;
  }
  // Adds the product to the sum, and its derivatives to the gradient.
  void add_to(double& sum, ExpectedWidths* gradient) const {
    sum += without(axes_.size());
    for (size_t i = 0; gradient != nullptr && i < axes_.size(); ++i)
      width_of(*gradient, layer_, axes_[i]) += without(i);
  }

 private:
  double without(size_t skipped) const {
    double product = constant_;
    for (size_t i = 0; i < axes_.size(); ++i)
      if (i != skipped) product *= width_of(widths_, layer_, axes_[i]);
    return product;
  }
  const ExpectedWidths& widths_;
  int64_t layer_;
  double constant_ = 1;
  std::vector<Axis> axes_;
};

Term elements(const ExpectedWidths& widths, const ParameterSpec& spec, const ModelConfig& config,
              bool active) {
  Term term(widths, spec.layer);
  for (const Dim& dim : spec.dims) {
    if (active && spec.stacked() && dim.axis == Axis::kExperts)
      term.times(static_cast<double>(config.top_k));
    else if (dim.axis == Axis::kNone)
      term.times(static_cast<double>(dim.extent));
    else
      term.times(dim.axis);
  }
  return term;
}

// What decoding keeps for `batch` sequences (runtime/decode_state.h).
void add_caches(const ModelConfig& c, const MemoryTerms& m, const ExpectedWidths& widths,
                double& sum, ExpectedWidths* gradient) {
  const auto batch = static_cast<double>(m.batch);
  const double window = batch * m.state_bytes * static_cast<double>(c.conv_kernel - 1);
  for (int64_t l = 0; l < c.layers(); ++l) {
    if (c.kind(l) == LayerKind::kAttention) {
      const double elements = 2.0 * static_cast<double>(m.context * c.kv_heads * c.head_dim);
      Term(widths, l).times(batch * m.cache_bytes * elements).add_to(sum, gradient);
    }
    if (c.kind(l) != LayerKind::kMamba) continue;
    Term(widths, l)
        .times(batch * m.state_bytes)
        .times(Axis::kMambaHeads)
        .times(Axis::kMambaChannels)
        .times(Axis::kState)
        .add_to(sum, gradient);
    Term(widths, l)
        .times(window)
        .times(Axis::kMambaHeads)
        .times(Axis::kMambaChannels)
        .add_to(sum, gradient);
    Term(widths, l)
        .times(window * 2.0 * static_cast<double>(c.groups))
        .times(Axis::kState)
        .add_to(sum, gradient);
  }
}

}  // namespace

double cost(const ModelConfig& config, const CostTarget& target, const ExpectedWidths& widths,
            ExpectedWidths* gradient) {
  if (gradient != nullptr) {
    *gradient = {.hidden = 0, .layers = {}};
    gradient->layers.resize(widths.layers.size());
    for (auto& layer : gradient->layers) layer.kept = 0;
  }
  double sum = 0;
  const bool active = target.kind == CostKind::kActive;
  const double scale = target.kind == CostKind::kMemory ? target.memory.weight_bytes : 1.0;
  for (const ParameterSpec& spec : parameter_list(config))
    elements(widths, spec, config, active).times(scale).add_to(sum, gradient);
  if (target.kind == CostKind::kMemory) add_caches(config, target.memory, widths, sum, gradient);
  return sum;
}

ParameterCost parameter_cost(const ModelConfig& config, const Widths& widths) {
  const ExpectedWidths exact = expected(widths);
  const auto count = [&](CostKind kind) {
    return static_cast<int64_t>(cost(config, {.kind = kind, .memory = {}}, exact));
  };
  return {.total = count(CostKind::kTotal), .active = count(CostKind::kActive)};
}

ParameterCost parameter_cost(const ModelConfig& config) {
  return parameter_cost(config, full_widths(config));
}

}  // namespace nestling
