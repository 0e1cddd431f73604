#include "trainer/expert_load.h"

#include <algorithm>

#include "kernels/core/host_view.h"
#include "kernels/ops/sum.h"

namespace nestling {

ExpertLoad::ExpertLoad(const ModelConfig& config, Device device) : experts_(config.experts) {
  for (int64_t l = 0; l < config.layers(); ++l)
    if (config.kind(l) == LayerKind::kMoe) layers_.push_back(static_cast<size_t>(l));
  if (layers_.empty()) return;
  counts_ = Tensor(device, DType::kF64, {std::ssize(layers_), experts_});
  clear();
}

void ExpertLoad::clear() {
  if (counts_) fill_zero(counts_.view());
}

void ExpertLoad::add(Context& ctx, const ModelActs& acts) {
  if (!counts_) return;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto* moe = std::get_if<MoeActs>(&acts.layers.at(layers_[i]));
    if (moe == nullptr) continue;  // a layer that this size leaves out
    const int64_t experts = moe->offsets.dim(0) - 1;
    const View row = counts_.view().slice(0, static_cast<int64_t>(i), 1).prefix(1, experts);
    count_rows(ctx, {.counts = row.reshape({experts}), .offsets = moe->offsets});
  }
}

void ExpertLoad::fetch(Context& ctx) {
  if (counts_) host_ = nestling::fetch(ctx, counts_);
}

void ExpertLoad::reduce(Context& ctx, Comm& comm) {
  if (counts_) comm.all_reduce(ctx, host_, Reduce::kSum);
}

const double* ExpertLoad::of_layer(size_t moe_layer) const {
  return host_.ptr<double>() + static_cast<int64_t>(moe_layer) * experts_;
}

double ExpertLoad::worst_imbalance(int64_t experts) const {
  double worst = 0;
  if (!counted()) return worst;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const double* load = of_layer(layer);
    double total = 0;
    double most = 0;
    for (int64_t e = 0; e < experts; ++e) {
      total += load[e];
      most = std::max(most, load[e]);
    }
    if (total > 0) worst = std::max(worst, most * static_cast<double>(experts) / total);
  }
  return worst;
}

}  // namespace nestling
