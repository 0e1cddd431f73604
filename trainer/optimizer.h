// optimizer.h - AdamW over all trained parameters of some Weights, with its moments.
//
// Groups        matrices decay, vectors, norms and biases do not (ParameterSpec::decay); one learning
//               rate for all.
// Buffers       parameters that are not trained have no moments and are left alone.
// Ranks         each holds the moments of its own share (model/shares.h) and steps that: 8 bytes a parameter,
//               divided by the ranks. Gradients arrive reduced at the rank that steps them, masters go from there to
//               all; as many bytes travel as to reduce all gradients everywhere. Low copies and codes are then made of
//               the masters by every rank. Layers whose matrices ranks share (model/shared_layers.h) have been reduced
//               by their backward, and go nowhere: a rank steps what it holds.
// Ownership     owns the moments; borrows weights and communicator.
// Determinism   same gradients of the ranks: same bits in masters, moments and norm, whatever rank steps them,
//               for any number of threads, layers shared or whole.
#pragma once
#include <vector>

#include "kernels/comm/comm.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"

namespace nestling {

class WeightsOptimizer {
 public:
  WeightsOptimizer(Weights& weights, const OptimizerConfig& config, Comm& comm);

  // Sums the gradients over the ranks, those of a share where it is stepped: elsewhere they are not the sums.
  // The global norm to `norm` [1] f64, on the device.
  void reduce_gradients(Context& ctx, View norm);
  // `update` is AdamW's t, from 1. Gradients are scaled down to config.clip where their norm exceeds it.
  void step(Context& ctx, double lr, int64_t update, double grad_norm);
  // Masters and moments, for checkpoints: each rank saves what it steps, and rank 0 what no rank does. Names are the
  // same, however ranks share.
  TrainingState state();
  int64_t moment_bytes() const;  // of this rank

 private:
  // A run of elements that this rank steps: dense views of equal length.
  struct Stepped {
    ParameterRun of;
    View master, grad, m, v, low;
  };
  const Share& own() const { return shares_[static_cast<size_t>(comm_.rank())]; }
  std::vector<View> pieces(View flat) const;  // one a rank
  std::vector<Stepped> stepped();

  Weights& weights_;
  OptimizerConfig config_;
  Comm& comm_;
  std::vector<Share> shares_;  // of what is whole on every rank, one a rank
  std::vector<int64_t>
      norm_blocks_;             // where those of a parameter begin; one more: how many there are
  Tensor m_, v_;                // [own().count]
  Tensor layers_m_, layers_v_;  // as SharedLayers::masters()
};

}  // namespace nestling
