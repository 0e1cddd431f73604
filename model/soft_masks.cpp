#include "model/soft_masks.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/core/host_view.h"

namespace nestling {

namespace {

int64_t units_of(const AxisChoices& c) {
  return *std::max_element(c.widths.begin(), c.widths.end());
}

// Indices of the choices, widest first, whatever the order they are written in.
std::vector<size_t> by_width(const AxisChoices& c) {
  std::vector<size_t> order(c.widths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return c.widths[a] != c.widths[b] ? c.widths[a] > c.widths[b] : a < b;
  });
  return order;
}

}  // namespace

SoftMasks::SoftMasks(ElasticSpace space, Device device)
    : space_(std::move(space)), device_(device) {
  check_once();
  Probabilities parent;
  for (const AxisChoices& c : space_.axes) {
    units_.emplace_back(static_cast<size_t>(units_of(c)), 1.0);
    parent.emplace_back(c.widths.size(), 0.0);
    parent.back()[by_width(c)[0]] = 1.0;
  }
  const Factor hidden{.axis = find(Axis::kHidden, -1), .extent = space_.config.hidden};
  masks_.layers.resize(static_cast<size_t>(space_.config.layers()));
  grads_.layers.resize(masks_.layers.size());
  add({.a = hidden}, 1, masks_.hidden, grads_.hidden);
  add({.a = hidden, .sum = true}, 1, masks_.active, grads_.active);
  for (int64_t l = 0; l < space_.config.layers(); ++l) plan_layer(l);
  allocate();
  set(parent);
}

int64_t SoftMasks::find(Axis axis, int64_t layer) const {
  for (size_t a = 0; a < space_.axes.size(); ++a)
    if (space_.axes[a].axis == axis && (space_.axes[a].layer < 0 || space_.axes[a].layer == layer))
      return static_cast<int64_t>(a);
  return -1;
}

void SoftMasks::check_once() const {
  for (size_t a = 0; a < space_.axes.size(); ++a)
    for (size_t b = 0; b < a; ++b) {
      const AxisChoices& one = space_.axes[a];
      const AxisChoices& other = space_.axes[b];
      const bool apart = one.layer >= 0 && other.layer >= 0 && one.layer != other.layer;
      NESTLING_CHECK(one.axis != other.axis || apart, "two lists of choices for ",
                     axis_name(one.axis), " of one layer");
    }
}

void SoftMasks::plan_layer(int64_t layer) {
  const ModelConfig& c = space_.config;
  LayerMasks& m = masks_.layers[static_cast<size_t>(layer)];
  LayerMaskGrads& g = grads_.layers[static_cast<size_t>(layer)];
  const auto factor = [&](Axis axis, int64_t extent) {
    return Factor{.axis = find(axis, layer), .extent = extent};
  };
  Factor kept{.axis = find(Axis::kLayers, layer)};
  if (kept.axis >= 0) {
    const auto& order = space_.layer_order;
    const auto at = std::find(order.begin(), order.end(), layer);
    NESTLING_CHECK(at != order.end(), "layer ", layer, " is not in the order of the layers");
    kept.begin = at - order.begin();
  }
  add({.a = factor(Axis::kHidden, c.hidden), .b = kept}, 1, m.out, g.out);
  switch (c.kind(layer)) {
    case LayerKind::kMamba: {
      const Factor heads = factor(Axis::kMambaHeads, c.mamba_heads);
      const Factor channels = factor(Axis::kMambaChannels, c.mamba_head_dim);
      add({.a = heads, .b = channels}, 2, m.heads, g.heads);
      add({.a = heads, .b = channels, .sum = true, .scale = 1.0 / static_cast<double>(c.groups)}, 1,
          m.group_active, g.group_active);
      add({.a = factor(Axis::kState, c.state), .b = {.extent = c.groups}}, 2, m.state, g.state);
      break;
    }
    case LayerKind::kAttention:
      add({.a = factor(Axis::kQueryHeads, c.query_heads)}, 1, m.query_heads, g.query_heads);
      break;
    case LayerKind::kDense:
      add({.a = factor(Axis::kFfn, c.ffn)}, 1, m.ffn, g.ffn);
      break;
    case LayerKind::kMoe:
      add({.a = factor(Axis::kExperts, c.experts)}, 1, m.experts, g.experts);
      add({.a = factor(Axis::kExpertFfn, c.expert_ffn)}, 1, m.expert_ffn, g.expert_ffn);
      add({.a = factor(Axis::kSharedFfn, c.shared_ffn)}, 1, m.shared_ffn, g.shared_ffn);
      break;
  }
}

void SoftMasks::add(Product p, int rank, ConstView& mask, View& gradient) {
  if (p.a.axis < 0 && p.b.axis < 0) return;
  places_.push_back({rank, &mask, &gradient});
  products_.push_back(p);
}

void SoftMasks::allocate() {
  constexpr int64_t kLine = 64;  // elements: masks begin at multiples of 256 bytes
  int64_t total = 0;
  for (Product& p : products_) {
    p.at = total;
    total += (p.size() + kLine - 1) / kLine * kLine;
  }
  if (total == 0) return;
  values_ = Tensor(device_, DType::kF32, {total});
  gradients_ = Tensor(device_, DType::kF32, {total});
  for (size_t i = 0; i < products_.size(); ++i) {
    const Product& p = products_[i];
    const auto shaped = [&](View pool) {
      const View part = pool.slice(0, p.at, p.size());
      return places_[i].rank == 2 ? part.reshape({p.a.extent, p.b.extent}) : part;
    };
    *places_[i].mask = shaped(values_);
    *places_[i].gradient = shaped(gradients_);
  }
  places_.clear();
}

double SoftMasks::value(const Factor& f, int64_t i) const {
  return f.axis < 0 ? 1.0 : units_[static_cast<size_t>(f.axis)][static_cast<size_t>(f.begin + i)];
}

void SoftMasks::fill(const Product& p, float* to) const {
  double sum = 0;
  for (int64_t i = 0; i < p.a.extent; ++i)
    for (int64_t j = 0; j < p.b.extent; ++j) {
      const double product = value(p.a, i) * value(p.b, j);
      if (!p.sum) to[i * p.b.extent + j] = static_cast<float>(product);
      sum += product;
    }
  if (p.sum) to[0] = static_cast<float>(p.scale * sum);
}

void SoftMasks::set(const Probabilities& p) {
  NESTLING_CHECK(p.size() == space_.axes.size(), "probabilities of ", p.size(),
                 " axes in a space of ", space_.axes.size());
  for (size_t a = 0; a < p.size(); ++a) {
    const AxisChoices& c = space_.axes[a];
    NESTLING_CHECK(p[a].size() == c.widths.size(), axis_name(c.axis), ": ", p[a].size(),
                   " probabilities for ", c.widths.size(), " choices");
    const std::vector<size_t> order = by_width(c);
    double alive = 0;  // of the units before the width in hand, and behind the next
    for (size_t k = 0; k < order.size(); ++k) {
      alive += p[a][order[k]];
      const int64_t next = k + 1 < order.size() ? c.widths[order[k + 1]] : 0;
      std::fill(units_[a].begin() + next, units_[a].begin() + c.widths[order[k]], alive);
    }
  }
  if (!values_) return;
  Tensor host(Device::kCpu, DType::kF32, {values_.size()});
  for (const Product& product : products_) fill(product, host.ptr<float>() + product.at);
  copy(values_, host.view());
}

void SoftMasks::zero_gradients() {
  if (gradients_) fill_zero(gradients_);
}

void SoftMasks::spread(const Product& p, const float* gradient, Probabilities& units) const {
  const auto add_to = [&](const Factor& f, int64_t i, double g) {
    if (f.axis >= 0) units[static_cast<size_t>(f.axis)][static_cast<size_t>(f.begin + i)] += g;
  };
  for (int64_t i = 0; i < p.a.extent; ++i)
    for (int64_t j = 0; j < p.b.extent; ++j) {
      const double g =
          p.sum ? p.scale * gradient[0] : static_cast<double>(gradient[i * p.b.extent + j]);
      add_to(p.a, i, g * value(p.b, j));
      add_to(p.b, j, g * value(p.a, i));
    }
}

void SoftMasks::backward(Probabilities& dp) {
  NESTLING_CHECK(dp.size() == space_.axes.size(), "gradients of ", dp.size(),
                 " axes in a space of ", space_.axes.size());
  Probabilities units;
  for (const std::vector<double>& axis : units_) units.emplace_back(axis.size(), 0.0);
  if (gradients_) {
    const Tensor host = on_host(gradients_);
    for (const Product& p : products_) spread(p, host.ptr<float>() + p.at, units);
  }
  for (size_t a = 0; a < dp.size(); ++a) {
    const AxisChoices& c = space_.axes[a];
    NESTLING_CHECK(dp[a].size() == c.widths.size(), axis_name(c.axis), ": ", dp[a].size(),
                   " gradients for ", c.widths.size(), " choices");
    std::vector<double> before(units[a].size() + 1, 0.0);  // sum over the first units
    std::partial_sum(units[a].begin(), units[a].end(), before.begin() + 1);
    for (size_t i = 0; i < c.widths.size(); ++i)
      dp[a][i] += before[static_cast<size_t>(c.widths[i])];
  }
}

}  // namespace nestling
