// expert_load.h - how evenly the gates of a model's MoE layers deal tokens to experts.
//
// Counts        (token, expert) pairs of the forward passes added, a row a layer. They stay on the device
//               until fetch(), which enqueues; after the context's next synchronize() reduce() sums
//               them over the ranks, and they can be read until the next clear(). A smaller size
//               counts in the columns of the experts it has.
// Ownership     owns the counts. Threads: one.
#pragma once
#include "kernels/comm/comm.h"
#include "kernels/core/context.h"
#include "kernels/core/tensor.h"
#include "model/model.h"

namespace nestling {

class ExpertLoad {
 public:
  // Without MoE layers it stays empty and every call does nothing. On the null device there is
  // nothing to count, and reduce() alone has work: its collective.
  ExpertLoad(const ModelConfig& config, Device device);

  bool counted() const { return counts_ && counts_.view().device() != Device::kNull; }
  void clear();
  void add(Context& ctx, const ModelActs& acts);  // of a forward that saved
  void fetch(Context& ctx);
  void reduce(Context& ctx, Comm& comm);

  const double* of_layer(size_t moe_layer) const;  // [experts]
  // Largest count of an expert over the mean of the first `experts`, worst layer; 0: nothing counted.
  double worst_imbalance(int64_t experts) const;

 private:
  int64_t experts_ = 0;
  std::vector<size_t> layers_;  // that are MoE
  Tensor counts_;               // [MoE layers, E] f64, on the device
  View host_;                   // what was fetched; then all ranks'
};

}  // namespace nestling
