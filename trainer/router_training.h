// router_training.h - the router as it is trained: budgets, draws, its own AdamW, and the moment its
// choices are settled.
//
// Budgets       of every size from the config's targets, against the parent's cost. A budget that no
//               combination of choices meets within the dead zone (of memory and latency: from below alone)
//               is refused (kInput), naming the nearest two. So is a profile of another architecture, or
//               one whose widths do not reach as low as the choices.
// Ranks         draws come from (seed, step, micro-step, size): all ranks draw alike. Of a budget loss
//               each counts the share of its tokens in those of the global batch.
// Freezing      when the choices without noise have been the same for `agree_steps`
//               steps with every probability at least `min_prob`, or `at_tokens` have been seen: each
//               size takes the feasible combination of largest probability, as Router::preferences ranks
//               them. From then on the router rests and sizes are slices.
// State         weights, moments and the counters of agreement are in state(): a resumed run freezes
//               at the same step.
#pragma once
#include <functional>
#include <vector>

#include "kernels/comm/comm.h"
#include "model/router.h"
#include "trainer/checkpoint.h"
#include "trainer/run_config.h"

namespace nestling {

struct DrawKey {
  int64_t tokens;  // seen before this step: the schedules' progress
  int64_t step, micro_step;
};

class RouterTraining {
 public:
  RouterTraining(const ElasticSpace& space, const RunConfig& config);

  int64_t sizes() const { return std::ssize(budgets_); }
  const SizeBudget& budget(int64_t size) const { return budgets_[static_cast<size_t>(size)]; }
  RouterDraw draw(int64_t size, const DrawKey& key) const;
  // Adds the budget loss with this weight to the gradient of the task, and passes both to the router.
  BudgetLoss backward(int64_t size, const RouterDraw& draw, Probabilities& dp, double weight);
  void zero_gradients() { router_.zero_gradients(); }
  // Sums the gradients over the ranks; their norm.
  double reduce_gradients(Context& ctx, Comm& comm);
  // One AdamW update with the reduced gradients, at router.lr throughout, not clipped.
  void step(Context& ctx, int64_t update);

  // To be called after every step that was not skipped; true when this one froze the choices.
  bool settle(int64_t tokens);
  void freeze_now();
  // The same with every choice as probable as the next: what a run that has learned nothing takes.
  void freeze_evenly();
  bool frozen() const { return counters_.ptr<int32_t>()[0] != 0; }
  const std::vector<Selection>& selections() const { return selections_; }
  Widths widths(int64_t size) const;  // frozen, or the most probable now (feasible or not)
  double probability(int64_t size, int64_t tokens) const;  // least over axes of the most probable
  double entropy(int64_t size, int64_t tokens) const;      // mean over axes, nats
  RouterDraw plain(int64_t size, int64_t tokens) const;    // probabilities without noise

  const Router& router() const { return router_; }

  std::vector<NamedState> state();
  int64_t allocated_bytes() const;                        // weights, gradients and moments
  void restored() { selections_ = stored_selections(); }  // after state() was filled

 private:
  double progress(int64_t tokens) const;
  std::vector<double> input(int64_t size) const;
  void freeze(const std::function<Probabilities(int64_t)>& probabilities);
  std::vector<Selection> stored_selections() const;
  void store(const std::vector<Selection>& selections);

  const ElasticSpace& space_;
  RunConfig config_;
  std::vector<CostFunction> costs_;
  std::vector<SizeBudget> budgets_;
  Router router_;
  std::vector<Tensor> m_, v_;
  Tensor counters_;  // [2 + sizes * axes] i32: frozen, steps of agreement, the choices
  std::vector<Selection> selections_;
};

}  // namespace nestling
