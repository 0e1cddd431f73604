// step_log.h - what the log keeps of one distillation step.
//
// Tags          loss, budget_loss, grad_norm, lr, router_lr, router_temperature, tokens_per_second, gflops,
//               share_of_peak, memory_bytes, sliced, skipped; a size: size/NAME/{kl, cost_of_budget,
//               expert_imbalance, least_probability, entropy, width/AXIS}.
// Width         of the parent's, 0 to 1: expected while the router learns, chosen afterwards.
// Sliced        1 where the step ran on slices: the one whose end freezes the choices ran under masks.
// Budget loss   without router.loss_weight.
// Share of peak products, counted by the operators, against register FMAs measured at the start, this rank.
#pragma once
#include "trainer/distill_step.h"
#include "trainer/log.h"
#include "trainer/training_run.h"

namespace nestling {

struct StepCost {
  double seconds = 0;
  double flops = 0;        // of this rank
  double tokens = 0;       // unique, of all ranks
  double peak_gflops = 0;  // of this rank; 0: not known, and no share is logged
};

LogRecord step_record(const RunConfig& config, const ElasticSpace& space,
                      const RouterTraining& router, const DistillResult& result,
                      const TrainingCounters& at, double lr, const StepCost& cost);

}  // namespace nestling
