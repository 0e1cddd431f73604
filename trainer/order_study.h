// order_study.h - is a score worth more than chance? The loss a cut costs when units leave by a score,
// by chance, or in reverse; nothing is trained.
//
// Cut           one axis alone, to the same width in every layer that has it; all others stay whole. A
//               cut of kLayers keeps that many layers, the first of the order's depth.
// Slices        the parent is sorted in place, run on prefix views, and put back bit for bit.
// Loss          mean next-token cross-entropy in nats over the targets of the held-out batches.
#pragma once
#include <span>
#include <vector>

#include "data/batches.h"
#include "model/units.h"
#include "model/weights.h"

namespace nestling {

struct Cut {
  Axis axis;
  int64_t width;
};

class OrderStudy {
 public:
  // Keeps references to all of them.
  OrderStudy(Context& ctx, const ModelConfig& config, Weights& parent,
             std::span<const Batch> held_out);

  double parent_loss();
  // One loss a cut, with the parent sorted by `scores`.
  std::vector<double> losses(const Scores& scores, std::span<const Cut> cuts);

 private:
  double loss(const ModelParams<Weight>& w);

  Context& ctx_;
  const ModelConfig& config_;
  Weights& weights_;
  std::span<const Batch> held_out_;
  Arena arena_;
};

Scores reversed(Scores scores);
// Uniform in [0, 1): every order within the groups is equally likely.
Scores random_scores(const ModelConfig& config, uint64_t seed);

}  // namespace nestling
