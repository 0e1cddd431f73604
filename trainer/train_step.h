// train_step.h - one optimizer step: micro-batches forward and backward, gradients reduced over the
// ranks, clipped, AdamW, balanced experts.
//
// Loss          mean next-token cross-entropy over all targets of the global batch, so that the number
//               of ranks and micro-batches only changes the order of sums.
// Precision     masters, moments and gradients f32; products read the low copies with compute bf16.
// Experts       after each update the gate's selection bias of an expert moves by bias_rate towards
//               balance: + where it got fewer than the mean of the pairs, - where more
//               (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
// Memory        on a CUDA device all of it is taken before a step begins, by a rehearsal on the null device of
//               the largest step of its shape (trainer/step_shape.h); a step allocates nothing. One of
//               a larger shape than all before takes the arenas anew. Other devices take as they go.
// Not finite    a loss or gradient norm that is NaN or infinite changes nothing but the counters.
// Waits         one a step for the device, when its losses, loads and gradient norm are read together.
// Ranks         every rank makes the same collectives in the same order; weights stay equal bit for bit.
#pragma once
#include <functional>
#include <vector>

#include "data/batches.h"
#include "kernels/comm/comm.h"
#include "kernels/core/memory_table.h"
#include "model/model.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/device_sums.h"
#include "trainer/expert_load.h"
#include "trainer/optimizer.h"
#include "trainer/step_shape.h"

namespace nestling {

struct StepResult {
  double loss = 0;       // nats per target
  double grad_norm = 0;  // before clipping
  bool skipped = false;
  double expert_imbalance =
      0;  // largest share of an expert over the mean share, worst layer; 0: no MoE
};

struct LossSum {
  double nll = 0;
  double targets = 0;
  double correct = 0;
};

class TrainStep {
 public:
  TrainStep(const ModelConfig& model, const PretrainConfig& config, Context& ctx, Comm& comm);

  // micro_batches: this rank's share of the global batch, at least one. `update` is AdamW's t, from 1.
  StepResult run(const std::vector<Batch>& micro_batches, double lr, int64_t update);
  // Takes the memory of such a step, as run() does itself.
  void reserve(const std::vector<Batch>& micro_batches);
  // Loss of a batch without gradients, this rank's part only.
  LossSum evaluate(const Batch& batch);

  Weights& weights() { return weights_; }
  std::vector<MemoryPool> memory() const;  // of this rank, so far
  TrainingState state() { return optimizer_.state(); }

 private:
  void accumulate(const Batch& batch, double weight, bool fresh);  // fresh: the step's first
  void rehearse(const std::function<void(TrainStep&)>& step);
  void balance_experts();

  ModelConfig model_;
  const PretrainConfig& config_;
  Context& ctx_;
  Comm& comm_;
  Arena arena_;
  Weights weights_;
  WeightsOptimizer optimizer_;
  std::vector<int64_t> gate_bias_;  // place in the list, one a MoE layer
  ExpertLoad load_;
  StepShape reserved_;
  DeviceSums sums_;  // of the step in hand: losses, norm of the gradients
};

}  // namespace nestling
