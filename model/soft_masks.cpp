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

SoftMasks::SoftMasks(ElasticSpace space, Device device) : space_(std::move(space)) {
  check_once();
  Probabilities parent;
  for (const AxisChoices& c : space_.axes) {
    parent.emplace_back(c.widths.size(), 0.0);
    parent.back()[by_width(c)[0]] = 1.0;
  }
  const Factor hidden{.axis = find(Axis::kHidden, -1), .extent = space_.config.hidden};
  add(
      {.a = hidden}, 1, [](auto& m) -> auto& { return m.hidden; });
  add(
      {.a = hidden, .sum = true}, 1, [](auto& m) -> auto& { return m.active; });
  for (int64_t l = 0; l < space_.config.layers(); ++l) plan_layer(l);
  masks_.layers.resize(static_cast<size_t>(space_.config.layers()));
  if (size_ == 0) return;
  values_ = Tensor(device, DType::kF32, {size_}, {Pool::kOther, "masks"});
  copy(values_, host_view(values(parent)));
  for (size_t i = 0; i < products_.size(); ++i) places_[i].mask(masks_) = shaped(values_.view(), i);
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
  const auto l = static_cast<size_t>(layer);
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
  add(
      {.a = factor(Axis::kHidden, c.hidden), .b = kept},
      1, [l](auto& m) -> auto& { return m.layers[l].out; });
  switch (c.kind(layer)) {
    case LayerKind::kMamba: {
      const Factor heads = factor(Axis::kMambaHeads, c.mamba_heads);
      const Factor channels = factor(Axis::kMambaChannels, c.mamba_head_dim);
      add(
          {.a = heads, .b = channels}, 2, [l](auto& m) -> auto& { return m.layers[l].heads; });
      add(
          {.a = heads, .b = channels, .sum = true, .scale = 1.0 / static_cast<double>(c.groups)},
          1, [l](auto& m) -> auto& { return m.layers[l].group_active; });
      add(
          {.a = factor(Axis::kState, c.state), .b = {.extent = c.groups}},
          2, [l](auto& m) -> auto& { return m.layers[l].state; });
      break;
    }
    case LayerKind::kAttention:
      add(
          {.a = factor(Axis::kQueryHeads, c.query_heads)},
          1, [l](auto& m) -> auto& { return m.layers[l].query_heads; });
      break;
    case LayerKind::kDense:
      add(
          {.a = factor(Axis::kFfn, c.ffn)}, 1, [l](auto& m) -> auto& { return m.layers[l].ffn; });
      break;
    case LayerKind::kMoe:
      add(
          {.a = factor(Axis::kExperts, c.experts)},
          1, [l](auto& m) -> auto& { return m.layers[l].experts; });
      add(
          {.a = factor(Axis::kExpertFfn, c.expert_ffn)},
          1, [l](auto& m) -> auto& { return m.layers[l].expert_ffn; });
      add(
          {.a = factor(Axis::kSharedFfn, c.shared_ffn)},
          1, [l](auto& m) -> auto& { return m.layers[l].shared_ffn; });
      break;
  }
}

template <class Field>
void SoftMasks::add(Product p, int rank, Field field) {
  if (p.a.axis < 0 && p.b.axis < 0) return;
  constexpr int64_t kLine = 64;  // elements: masks begin at multiples of 256 bytes
  p.at = size_;
  size_ += (p.size() + kLine - 1) / kLine * kLine;
  products_.push_back(p);
  places_.push_back({rank, field, field});
}

View SoftMasks::shaped(View pool, size_t product) const {
  const Product& p = products_[product];
  const View part = pool.slice(0, p.at, p.size());
  return places_[product].rank == 2 ? part.reshape({p.a.extent, p.b.extent}) : part;
}

Probabilities SoftMasks::units(const Probabilities& p) const {
  NESTLING_CHECK(p.size() == space_.axes.size(), "probabilities of ", p.size(),
                 " axes in a space of ", space_.axes.size());
  Probabilities units;
  for (size_t a = 0; a < p.size(); ++a) {
    const AxisChoices& c = space_.axes[a];
    NESTLING_CHECK(p[a].size() == c.widths.size(), axis_name(c.axis), ": ", p[a].size(),
                   " probabilities for ", c.widths.size(), " choices");
    std::vector<double>& axis = units.emplace_back(static_cast<size_t>(units_of(c)));
    const std::vector<size_t> order = by_width(c);
    double alive = 0;  // of the units before the width in hand, and behind the next
    for (size_t k = 0; k < order.size(); ++k) {
      alive += p[a][order[k]];
      const int64_t next = k + 1 < order.size() ? c.widths[order[k + 1]] : 0;
      std::fill(axis.begin() + next, axis.begin() + c.widths[order[k]], alive);
    }
  }
  return units;
}

double SoftMasks::value(const Factor& f, const Probabilities& units, int64_t i) const {
  return f.axis < 0 ? 1.0 : units[static_cast<size_t>(f.axis)][static_cast<size_t>(f.begin + i)];
}

void SoftMasks::fill(const Product& p, const Probabilities& units, float* to) const {
  double sum = 0;
  for (int64_t i = 0; i < p.a.extent; ++i)
    for (int64_t j = 0; j < p.b.extent; ++j) {
      const double product = value(p.a, units, i) * value(p.b, units, j);
      if (!p.sum) to[i * p.b.extent + j] = static_cast<float>(product);
      sum += product;
    }
  if (p.sum) to[0] = static_cast<float>(p.scale * sum);
}

std::vector<float> SoftMasks::values(const Probabilities& p) const {
  const Probabilities alive = units(p);
  std::vector<float> all(static_cast<size_t>(size_));
  for (const Product& product : products_) fill(product, alive, all.data() + product.at);
  return all;
}

void SoftMasks::set(Context& ctx, const Probabilities& p) {
  const std::vector<float> all = values(p);
  if (size_ > 0) send(ctx, values_, host_view(all));
}

ModelMaskGrads SoftMasks::grads(View gradients) const {
  ModelMaskGrads all;
  all.layers.resize(masks_.layers.size());
  for (size_t i = 0; i < products_.size(); ++i) places_[i].gradient(all) = shaped(gradients, i);
  return all;
}

void SoftMasks::spread(const Product& p, const Probabilities& units, const float* gradient,
                       Probabilities& dunits) const {
  const auto add_to = [&](const Factor& f, int64_t i, double g) {
    if (f.axis >= 0) dunits[static_cast<size_t>(f.axis)][static_cast<size_t>(f.begin + i)] += g;
  };
  for (int64_t i = 0; i < p.a.extent; ++i)
    for (int64_t j = 0; j < p.b.extent; ++j) {
      const double g =
          p.sum ? p.scale * gradient[0] : static_cast<double>(gradient[i * p.b.extent + j]);
      add_to(p.a, i, g * value(p.b, units, j));
      add_to(p.b, j, g * value(p.a, units, i));
    }
}

void SoftMasks::backward(const Probabilities& p, ConstView gradients, Probabilities& dp) const {
  NESTLING_CHECK(dp.size() == space_.axes.size(), "gradients of ", dp.size(),
                 " axes in a space of ", space_.axes.size());
  const Probabilities alive = units(p);
  Probabilities dunits;
  for (const std::vector<double>& axis : alive) dunits.emplace_back(axis.size(), 0.0);
  if (const auto* from = gradients.ptr<float>())
    for (const Product& product : products_) spread(product, alive, from + product.at, dunits);
  for (size_t a = 0; a < dp.size(); ++a) {
    const AxisChoices& c = space_.axes[a];
    NESTLING_CHECK(dp[a].size() == c.widths.size(), axis_name(c.axis), ": ", dp[a].size(),
                   " gradients for ", c.widths.size(), " choices");
    std::vector<double> before(dunits[a].size() + 1, 0.0);  // sum over the first units
    std::partial_sum(dunits[a].begin(), dunits[a].end(), before.begin() + 1);
    for (size_t i = 0; i < c.widths.size(); ++i)
      dp[a][i] += before[static_cast<size_t>(c.widths[i])];
  }
}

}  // namespace nestling
