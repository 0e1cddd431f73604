#include "model/widths.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace nestling {

namespace {

struct AxisEntry {
  Axis axis;
  const char* name;
  char kind;  // of the layers that have it; 0: no layer has it as a width of its own
};

constexpr std::array kAxes = {
    AxisEntry{Axis::kHidden, "hidden", 0},
    AxisEntry{Axis::kMambaHeads, "mamba_heads", 'M'},
    AxisEntry{Axis::kMambaChannels, "mamba_channels", 'M'},
    AxisEntry{Axis::kState, "state", 'M'},
    AxisEntry{Axis::kQueryHeads, "query_heads", '*'},
    AxisEntry{Axis::kFfn, "ffn", '-'},
    AxisEntry{Axis::kExperts, "experts", 'E'},
    AxisEntry{Axis::kExpertFfn, "expert_ffn", 'E'},
    AxisEntry{Axis::kSharedFfn, "shared_ffn", 'E'},
    AxisEntry{Axis::kLayers, "layers", 0},
};

int64_t extent_of(const ModelConfig& c, Axis axis) {
  switch (axis) {
    case Axis::kHidden:
      return c.hidden;
    case Axis::kMambaHeads:
      return c.mamba_heads;
    case Axis::kMambaChannels:
      return c.mamba_head_dim;
    case Axis::kState:
      return c.state;
    case Axis::kQueryHeads:
      return c.query_heads;
    case Axis::kFfn:
      return c.ffn;
    case Axis::kExperts:
      return c.experts;
    case Axis::kExpertFfn:
      return c.expert_ffn;
    case Axis::kSharedFfn:
      return c.shared_ffn;
    case Axis::kLayers:
      return c.layers();
    case Axis::kNone:
      break;
  }
  throw Error("an axis that has no extent");
}

// Blocks where the parent is made of whole ones; a parent with odd widths is cut anywhere.
int64_t block_step(int64_t extent) {
  return extent % kBlock == 0 ? kBlock : 1;
}

}  // namespace

int64_t WidthRule::nearest(double width) const {
  const double inside =  // a written width may be beyond int64
      std::clamp(width, static_cast<double>(least), static_cast<double>(extent));
  const double steps = (inside - static_cast<double>(least)) / static_cast<double>(step);
  const auto good = least + static_cast<int64_t>(std::ceil(steps - 0.5)) * step;
  return std::clamp(good, least, extent);
}

WidthRule width_rule(const ModelConfig& c, Axis axis) {
  const int64_t extent = extent_of(c, axis);
  int64_t step = block_step(extent);
  int64_t least = step;
  if (axis == Axis::kMambaHeads) least = step = c.groups;
  if (axis == Axis::kQueryHeads) least = step = c.kv_heads;
  if (axis == Axis::kExperts) {
    step = 1;
    // Groups of experts are dealt by index: a prefix would deal them anew.
    least = c.gate.groups > 1 ? extent : c.top_k;
  }
  if (axis == Axis::kLayers) least = step = 1;
  return {.extent = extent, .step = step, .least = least};
}

const char* axis_name(Axis axis) {
  for (const AxisEntry& e : kAxes)
    if (e.axis == axis) return e.name;
  throw Error("an axis that has no name");
}

Axis parse_axis(const std::string& name) {
  std::string known;
  for (const AxisEntry& e : kAxes) {
    if (name == e.name) return e.axis;
    known += std::string(known.empty() ? "" : ", ") + e.name;
  }
  throw Error(str("no axis '", name, "'; there are ", known), ErrorKind::kInput);
}

std::vector<Axis> axes_of(const ModelConfig& config, LayerKind kind) {
  std::vector<Axis> axes;
  for (const AxisEntry& e : kAxes)
    if (e.kind == static_cast<char>(kind) && extent_of(config, e.axis) > 0) axes.push_back(e.axis);
  return axes;
}

template <class T>
T& width_of(BasicWidths<T>& widths, int64_t layer, Axis axis) {
  if (axis == Axis::kHidden) return widths.hidden;
  BasicLayerWidths<T>& w = widths.layers.at(static_cast<size_t>(layer));
  switch (axis) {
    case Axis::kMambaHeads:
      return w.mamba_heads;
    case Axis::kMambaChannels:
      return w.mamba_channels;
    case Axis::kState:
      return w.state;
    case Axis::kQueryHeads:
      return w.query_heads;
    case Axis::kFfn:
      return w.ffn;
    case Axis::kExperts:
      return w.experts;
    case Axis::kExpertFfn:
      return w.expert_ffn;
    case Axis::kSharedFfn:
      return w.shared_ffn;
    case Axis::kLayers:
      return w.kept;
    case Axis::kHidden:
    case Axis::kNone:
      break;
  }
  throw Error("an axis that has no width");
}
template int64_t& width_of(BasicWidths<int64_t>&, int64_t, Axis);
template double& width_of(BasicWidths<double>&, int64_t, Axis);

ExpectedWidths expected(const Widths& widths) {
  ExpectedWidths e{.hidden = static_cast<double>(widths.hidden),
                   .layers = std::vector<BasicLayerWidths<double>>(widths.layers.size())};
  for (int64_t l = 0; l < std::ssize(widths.layers); ++l)
    for (const AxisEntry& a : kAxes)
      if (a.axis != Axis::kHidden)
        width_of(e, l, a.axis) = static_cast<double>(width_of(widths, l, a.axis));
  return e;
}

Widths full_widths(const ModelConfig& config) {
  Widths w{.hidden = config.hidden,
           .layers = std::vector<LayerWidths>(static_cast<size_t>(config.layers()))};
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l)))
      width_of(w, l, axis) = extent_of(config, axis);
  return w;
}

void check_widths(const ModelConfig& config, const Widths& widths, const std::string& where) {
  NESTLING_CHECK_INPUT(std::ssize(widths.layers) == config.layers(), where, ": widths of ",
                       widths.layers.size(), " layers for a model of ", config.layers());
  const auto check = [&](int64_t layer, Axis axis) {
    const WidthRule rule = width_rule(config, axis);
    const int64_t width = width_of(widths, layer, axis);
    const bool good = width >= rule.least && width <= rule.extent &&
                      (width == rule.extent || (width - rule.least) % rule.step == 0);
    NESTLING_CHECK_INPUT(good, where, ": ", axis_name(axis), " ", width,
                         axis == Axis::kHidden ? "" : str(" in layer ", layer), ": must be ",
                         rule.least, " to ", rule.extent, " in steps of ", rule.step,
                         "; the nearest good width is ", rule.nearest(static_cast<double>(width)));
  };
  check(0, Axis::kHidden);
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l))) check(l, axis);
}

template <class V>
ModelParams<V> prefix_parameters(const ModelConfig& config, const Widths& widths,
                                 const ModelParams<V>& parent) {
  std::vector<V> fields;
  ModelParams<V> source = parent;
  visit_parameters(config, source, [&](V& view, const ParameterSpec&) { fields.push_back(view); });
  ModelParams<V> cut;
  size_t next = 0;
  visit_parameters(config, cut, [&](V& view, const ParameterSpec& spec) {
    view = fields[next++];
    if (spec.layer >= 0 && widths.layers[static_cast<size_t>(spec.layer)].kept == 0) view = V();
    if (!view) return;
    for (size_t d = 0; d < spec.dims.size(); ++d)
      if (const Axis axis = spec.dims[d].axis; axis != Axis::kNone)
        view = view.prefix(static_cast<int>(d),
                           width_of(widths, std::max<int64_t>(spec.layer, 0), axis));
  });
  if (config.tied) cut.head = cut.embeddings;
  cut.logit_scale = parent.logit_scale;
  cut.shared = parent.shared;
  return cut;
}
template ModelParams<View> prefix_parameters(const ModelConfig&, const Widths&,
                                             const ModelParams<View>&);
template ModelParams<Weight> prefix_parameters(const ModelConfig&, const Widths&,
                                               const ModelParams<Weight>&);

ModelConfig cut_config(const ModelConfig& config, const Widths& widths) {
  check_widths(config, widths, "cut_config");
  ModelConfig cut = config;
  cut.hidden = widths.hidden;
  cut.pattern.clear();
  std::array<const LayerWidths*, 128> seen{};
  for (int64_t l = 0; l < config.layers(); ++l) {
    const LayerWidths& w = widths.layers[static_cast<size_t>(l)];
    if (w.kept == 0) continue;
    const char kind = config.pattern[static_cast<size_t>(l)];
    cut.pattern += kind;
    const LayerWidths*& first = seen[static_cast<unsigned char>(kind)];
    if (first == nullptr) first = &w;
    NESTLING_CHECK(
        *first == w, "layer ", l, " ('", kind,
        "') is cut to other widths than the first of its kind: one config cannot say that");
    switch (config.kind(l)) {
      case LayerKind::kMamba:
        cut.mamba_heads = w.mamba_heads;
        cut.mamba_head_dim = w.mamba_channels;
        cut.state = w.state;
        break;
      case LayerKind::kAttention:
        cut.query_heads = w.query_heads;
        break;
      case LayerKind::kDense:
        cut.ffn = w.ffn;
        break;
      case LayerKind::kMoe:
        cut.experts = w.experts;
        cut.expert_ffn = w.expert_ffn;
        cut.shared_ffn = w.shared_ffn;
        break;
    }
  }
  return cut;
}

}  // namespace nestling
