// optimizer.h - AdamW over all trained parameters of some Weights, with its moments.
//
// Groups        matrices decay, vectors, norms and biases do not (ParameterSpec::decay); one learning
//               rate for all.
// Buffers       parameters that are not trained have no moments and are left alone.
// Ownership     owns the moments; borrows the weights.
// Determinism   same gradients: same bits, for any number of threads.
#pragma once
#include <vector>

#include "kernels/comm/comm.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"

namespace nestling {

class WeightsOptimizer {
 public:
  WeightsOptimizer(Weights& weights, const OptimizerConfig& config);

  // Sums the gradients over the ranks; their global norm to `norm` [1] f64, on the device.
  void reduce_gradients(Context& ctx, Comm& comm, View norm);
  // `update` is AdamW's t, from 1. Gradients are scaled down to config.clip where their norm exceeds it.
  void step(Context& ctx, double lr, int64_t update, double grad_norm);
  std::vector<NamedState> state();  // masters and moments, for checkpoints
  int64_t moment_bytes() const;

 private:
  Weights& weights_;
  OptimizerConfig config_;
  struct Moments {
    View m, v;  // [n]
  };
  Tensor m_, v_;                  // of all trained parameters, one behind the other
  std::vector<Moments> moments_;  // one a parameter; absent for a buffer
};

}  // namespace nestling
