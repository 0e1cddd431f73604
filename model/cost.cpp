#include "model/cost.h"

#include "model/parameters.h"

namespace nestling {

namespace {

using Term = CostFunction::Term;

// A term of a layer is there as often as the layer is kept.
Term of_layer(int64_t layer, double constant, std::vector<Axis> axes) {
  if (layer >= 0) axes.push_back(Axis::kLayers);
  return {.constant = constant, .layer = layer, .axes = std::move(axes)};
}

Term elements(const ParameterSpec& spec, const ModelConfig& config, bool active, double scale) {
  Term term = of_layer(spec.layer, scale, {});
  for (const Dim& dim : spec.dims) {
    if (active && spec.stacked() && dim.axis == Axis::kExperts)
      term.constant *= static_cast<double>(config.top_k);
    else if (dim.axis == Axis::kNone)
      term.constant *= static_cast<double>(dim.extent);
    else
      term.axes.push_back(dim.axis);
  }
  return term;
}

// What decoding keeps for `batch` sequences (runtime/decode_state.h).
void add_caches(const ModelConfig& c, const MemoryTerms& m, std::vector<Term>& terms) {
  const auto batch = static_cast<double>(m.batch);
  const double window = batch * m.state_bytes * static_cast<double>(c.conv_kernel - 1);
  for (int64_t l = 0; l < c.layers(); ++l) {
    if (c.kind(l) == LayerKind::kAttention) {
      const double elements =
          2.0 * static_cast<double>(m.context) * static_cast<double>(c.kv_heads * c.head_dim);
      terms.push_back(of_layer(l, batch * m.cache_bytes * elements, {}));
    }
    if (c.kind(l) != LayerKind::kMamba) continue;
    terms.push_back(of_layer(l, batch * m.state_bytes,
                             {Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState}));
    terms.push_back(of_layer(l, window, {Axis::kMambaHeads, Axis::kMambaChannels}));
    terms.push_back(of_layer(l, window * 2.0 * static_cast<double>(c.groups), {Axis::kState}));
  }
}

constexpr double kMilliseconds = 1e-6;  // of a nanosecond

void add_layer_latency(const ModelConfig& c, const LatencyTerms& t, int64_t l,
                       std::vector<Term>& terms) {
  const LatencyPart part = latency_part(c.kind(l));
  const auto ms = [&](LatencyRate rate) { return kMilliseconds * t.rate(part, rate); };
  terms.push_back(of_layer(l, ms(LatencyRate::kLayer), {}));
  const auto batch = static_cast<double>(t.batch);
  if (part == LatencyPart::kMamba)
    terms.push_back(of_layer(l, ms(LatencyRate::kState) * batch,
                             {Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState}));
  if (part == LatencyPart::kAttention) {
    const double elements = 2.0 * static_cast<double>(t.context * c.head_dim);
    terms.push_back(of_layer(l, ms(LatencyRate::kState) * batch * elements, {Axis::kQueryHeads}));
  }
}

void add_latency(const ModelConfig& c, const LatencyTerms& t, std::vector<Term>& terms) {
  for (int64_t l = 0; l < c.layers(); ++l) add_layer_latency(c, t, l, terms);
  for (const ParameterSpec& spec : parameter_list(c)) {
    if (spec.layer < 0) continue;  // of the rest, below
    const LatencyPart part = latency_part(c.kind(spec.layer));
    const auto ms = [&](LatencyRate rate) { return kMilliseconds * t.rate(part, rate); };
    terms.push_back(elements(spec, c, true, ms(LatencyRate::kWeight)));
    if (spec.stacked()) terms.push_back(elements(spec, c, false, ms(LatencyRate::kExpert)));
  }
  const auto rest = [&](LatencyRate rate) {
    return kMilliseconds * t.rate(LatencyPart::kRest, rate);
  };
  terms.push_back({.constant = rest(LatencyRate::kLayer), .layer = -1, .axes = {}});
  terms.push_back({.constant = rest(LatencyRate::kWeight) * static_cast<double>(c.vocab),
                   .layer = -1,
                   .axes = {Axis::kHidden}});
}

double product(const Term& term, const ExpectedWidths& widths, size_t skipped) {
  double value = term.constant;
  for (size_t i = 0; i < term.axes.size(); ++i)
    if (i != skipped) value *= width_of(widths, term.layer, term.axes[i]);
  return value;
}

}  // namespace

LatencyPart latency_part(LayerKind kind) {
  switch (kind) {
    case LayerKind::kMamba:
      return LatencyPart::kMamba;
    case LayerKind::kAttention:
      return LatencyPart::kAttention;
    case LayerKind::kDense:
      return LatencyPart::kDense;
    case LayerKind::kMoe:
      return LatencyPart::kMoe;
  }
  throw Error("a kind of layer that has no latency");
}

CostFunction::CostFunction(const ModelConfig& config, const CostTarget& target) {
  if (target.kind == CostKind::kLatency) {
    add_latency(config, target.latency, terms_);
    return;
  }
  const bool active = target.kind == CostKind::kActive;
  const double scale = target.kind == CostKind::kMemory ? target.memory.weight_bytes : 1.0;
  for (const ParameterSpec& spec : parameter_list(config))
    terms_.push_back(elements(spec, config, active, scale));
  if (target.kind == CostKind::kMemory) add_caches(config, target.memory, terms_);
}

double CostFunction::operator()(const ExpectedWidths& widths, ExpectedWidths* gradient) const {
  if (gradient != nullptr) {
    gradient->hidden = 0;
    gradient->layers.assign(widths.layers.size(), {.kept = 0});
  }
  double sum = 0;
  for (const Term& term : terms_) {
    sum += product(term, widths, term.axes.size());
    for (size_t i = 0; gradient != nullptr && i < term.axes.size(); ++i)
      width_of(*gradient, term.layer, term.axes[i]) += product(term, widths, i);
  }
  return sum;
}

ParameterCost parameter_cost(const ModelConfig& config, const Widths& widths) {
  const ExpectedWidths exact = expected(widths);
  const auto count = [&](CostKind kind) {
    return static_cast<int64_t>(CostFunction(config, {.kind = kind, .memory = {}})(exact));
  };
  return {.total = count(CostKind::kTotal), .active = count(CostKind::kActive)};
}

ParameterCost parameter_cost(const ModelConfig& config) {
  return parameter_cost(config, full_widths(config));
}

double forward_flops(const ModelConfig& config, const Widths& widths, int64_t seq_len) {
  const int64_t looked_up = config.tied ? 0 : config.vocab * widths.hidden;
  double flops = 2 * static_cast<double>(parameter_cost(config, widths).active - looked_up);
  for (int64_t l = 0; l < config.layers(); ++l) {
    const LayerWidths& w = widths.layers[static_cast<size_t>(l)];
    if (w.kept == 0) continue;
    if (config.kind(l) == LayerKind::kAttention)
      flops += 2 * static_cast<double>(seq_len * w.query_heads * config.head_dim);
    if (config.kind(l) == LayerKind::kMamba)
      flops += 5 * static_cast<double>(w.mamba_heads * w.mamba_channels * w.state);
  }
  return flops;
}

}  // namespace nestling
