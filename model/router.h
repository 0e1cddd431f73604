// router.h - the learnable network that turns a budget into a choice on every axis.
//
//   h = leaky_relu(W1 u),  z = W2 h        one such MLP an axis, no biases, slope 0.1
//   pi = softmax((scale z + g) / tau)      g Gumbel noise, one draw an axis
//   loss = |C(pi) / (b C_full) - 1|, 0 within the dead zone;   b = 1: + 10 sum_axes MSE(pi, choice 0)
//   (Taghibakhshi et al. 2025, Nemotron Elastic, eq. 6-8, 12; the released code's dead zone and anchor)
//
// Input         u [sizes]: one-hot of the size, or between two neighbours for a budget in between.
// Schedules     tau falls geometrically and the scale rises linearly over the progress of the run, 0 to
//               1; both are functions of it alone.
// Straight-through  a hard draw is used as the one-hot of its arg max, with the gradient of pi.
// Noise         from (seed, step, micro-step) alone, so every rank draws the same.
// Precision     weights f32, everything else double. Gradients accumulate.
// Threads       one.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/core/tensor.h"
#include "model/choices.h"
#include "model/cost.h"

namespace nestling {

struct RouterOptions {
  int64_t hidden = 256;
  double init_std = 0.1;
  double tau_first = 1.0, tau_last = 0.05;
  double scale_first = 1.0, scale_last = 10.0;
  double hard_share = 0.004;  // of the draws that are straight-through
  double dead_zone = 0.02;    // of the budget
};

struct RouterDraw {
  std::vector<double> input;  // u
  Probabilities soft;         // pi
  Probabilities used;         // pi, or the one-hot of a hard draw
  double tau = 1, scale = 1;
  std::vector<std::vector<double>> hidden;  // W1 u of every axis
};

struct BudgetLoss {
  double loss = 0;
  double cost = 0;  // C(pi)
};

class Router {
 public:
  Router(const ElasticSpace& space, int64_t sizes, const RouterOptions& options, uint64_t seed);

  // progress in [0, 1]. Without noise the draw is the plain softmax: evaluation and freezing.
  struct Noise {
    uint64_t seed;
    int64_t step;
    int64_t micro_step;
  };
  RouterDraw draw(const std::vector<double>& u, double progress, const Noise* noise) const;
  void backward(const RouterDraw& draw, const Probabilities& dused);
  // softmax(z): of no schedule and no noise. Choices rank as in every plain draw, and none underflows.
  Probabilities preferences(const std::vector<double>& u) const;

  // Named f32 tensors for the optimizer and checkpoints, in a fixed order.
  struct Parameter {
    std::string name;
    View weight;  // [hidden, sizes] or [choices, hidden]
    View grad;
  };
  std::vector<Parameter> parameters();
  void zero_gradients();
  int64_t sizes() const { return sizes_; }
  const ElasticSpace& space() const { return *space_; }
  const RouterOptions& options() const { return options_; }
  // Weights alone, in the order of space().axes.
  ConstView first(size_t axis) const { return mlps_[axis].first.view(); }
  ConstView second(size_t axis) const { return mlps_[axis].second.view(); }

 private:
  struct Mlp {
    Tensor first, second;  // [hidden, sizes], [choices, hidden]
    Tensor dfirst, dsecond;
  };
  const ElasticSpace* space_;
  int64_t sizes_;
  RouterOptions options_;
  std::vector<Mlp> mlps_;  // one an axis of the space
};

// What the choices of a size cost against its budget. dp is accumulated with weight * gradient.
struct SizeBudget {
  const CostFunction* cost;
  double allowed;     // in the cost's own units
  bool full = false;  // the parent's size: anchored to choice 0 on every axis
  CostKind kind = CostKind::kActive;
};
BudgetLoss budget_loss(const ElasticSpace& space, const SizeBudget& budget, double dead_zone,
                       const Probabilities& p, double weight, Probabilities& dp);

// u for a cost between those of the sizes: linear between the two neighbouring one-hots. `costs`
// falls. Outside, the end's one-hot.
std::vector<double> interpolated_input(const std::vector<double>& costs, double cost);

// The whole-number choice nearest to the probabilities that keeps the budget: of all combinations
// whose cost is within `tolerance` of the budget, of itself, the one of the largest probability (ties: the
// lower indices). Parameters may be above and below by as much; memory and latency only below: what is over
// does not fit. None: found is false, and the combinations nearest below and above are given.
struct Feasible {
  bool found = false;
  Selection selection;
  double cost = 0;
  double nearest_below = 0, nearest_above = 0;  // costs; 0 where there is none
};
Feasible nearest_feasible(const ElasticSpace& space, const SizeBudget& budget, double tolerance,
                          const Probabilities& p);

}  // namespace nestling
