// masked_model.h - the elastic test model in mask mode: a space with every axis, its probabilities,
// and how far f32 losses and gradients may lie apart.
#pragma once
#include <algorithm>

#include "model/soft_masks.h"
#include "tests/support/elastic_model.h"

namespace nestling::testing {

inline constexpr double kEps = 0x1.0p-24;  // unit roundoff of f32

// Masked and sliced sums have the same terms, and zeros between: they differ by the order of at most
// kTerms additions in each of the products in a row that a value passes, as does what is summed
// from them. Gradients pass the forward and the backward.
inline constexpr double kTerms = 72, kProducts = 5 * 3 + 1;
inline const double kForwardBound = std::sqrt(kTerms) * kProducts * kEps;
inline const double kBackwardBound = 2 * kForwardBound;

// Every axis of the model, and state for its second Mamba layer by itself.
inline ElasticSpace whole_space() {
  const ModelConfig c = elastic_config();
  return {.config = c,
          .axes = {{.axis = Axis::kHidden, .widths = {32, 16}},
                   {.axis = Axis::kMambaHeads, .widths = {9, 6, 3}},
                   {.axis = Axis::kMambaChannels, .widths = {8, 5}},
                   {.axis = Axis::kState, .layer = 0, .widths = {32, 16}},
                   {.axis = Axis::kState, .layer = 3, .widths = {32, 16}},
                   {.axis = Axis::kQueryHeads, .widths = {6, 4, 2}},
                   {.axis = Axis::kFfn, .widths = {48, 32, 16}},
                   {.axis = Axis::kExperts, .widths = {6, 5, 3}},
                   {.axis = Axis::kExpertFfn, .widths = {32, 16}},
                   {.axis = Axis::kSharedFfn, .widths = {32, 16}},
                   {.axis = Axis::kLayers, .widths = {5, 4, 3}}},
          .layer_order = {4, 0, 1, 2, 3}};
}

inline ElasticSpace space_of(const AxisChoices& one) {
  ElasticSpace space = whole_space();
  space.axes = {one};
  return space;
}

// Weights wide enough apart that every axis shows in the loss.
inline void initialize(Weights& weights, uint64_t seed) {
  weights.initialize(seed);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    if (spec.dims.size() < 2) continue;
    const bool gate = spec.name.ends_with("gate.weight");
    auto* w = weights.master(i).ptr<float>();
    for (int64_t k = 0; k < spec.size(); ++k) w[k] *= gate ? 20.0f : 5.0f;
  }
}

// The masks of one draw, and the memory of their gradients.
class OneDraw {
 public:
  OneDraw(const ElasticSpace& space, Device device)
      : masks_(space, device),
        gradients_(device, DType::kF32, {masks_.size()}),
        grads_(masks_.grads(gradients_)) {}

  void set(const Probabilities& p) {
    Context ctx(Device::kCpu);
    masks_.set(ctx, p);
    p_ = p;
  }
  void zero_gradients() { fill_zero(gradients_); }
  void backward(Probabilities& dp) const { masks_.backward(p_, gradients_, dp); }
  const ModelMasks& masks() const { return masks_.masks(); }
  const ModelMaskGrads& grads() const { return grads_; }

 private:
  SoftMasks masks_;
  Tensor gradients_;
  ModelMaskGrads grads_;
  Probabilities p_;
};

struct Model {
  ModelConfig config;
  Weights weights{config, Device::kCpu, {.compute = DType::kF32, .gradients = true}};
  explicit Model(ModelConfig c = elastic_config()) : config(std::move(c)) {
    initialize(weights, 9);
  }

  BatchLoss loss(OneDraw& masks, const Probabilities& p) {
    masks.set(p);
    return batch_loss(config, weights.params(), nullptr, &masks.masks());
  }
  BatchLoss gradients(OneDraw& masks, const Probabilities& p) {
    masks.set(p);
    masks.zero_gradients();
    const auto g = weights.grads();
    return batch_loss(config, weights.params(), &g, &masks.masks(), &masks.grads());
  }
};

inline Probabilities zeros_like(const Probabilities& p) {
  Probabilities z = p;
  for (auto& axis : z) std::fill(axis.begin(), axis.end(), 0.0);
  return z;
}

// Random probabilities; the parent's choice is likely, so that no unit's mask comes near zero.
inline Probabilities soft(const ElasticSpace& space, uint64_t seed) {
  Rng rng(seed);
  Probabilities p;
  for (const AxisChoices& c : space.axes) {
    double sum = 0;
    p.emplace_back();
    for (size_t i = 0; i < c.widths.size(); ++i) {
      p.back().push_back((i == 0 ? 3.0 : 1.0) * rng.uniform(0.5, 1.0));
      sum += p.back().back();
    }
    for (double& x : p.back()) x /= sum;
  }
  return p;
}

}  // namespace nestling::testing
