// optimizer_shards.h - which elements of the parameters each rank steps: stage 1 of ZeRO (Rajbhandari et al. 2020,
// arXiv 1910.02054), over the flat masters and gradients of some Weights.
//
// Cuts          at the begin of a parameter or a whole number of kNormBlock elements behind it, so that the blocks of
//               the gradients' norm (kernels/ops/adamw.h) are those of the whole. Shards are equal but for a block;
//               a model of few blocks leaves ranks without any.
// Determinism   a function of the parameters' sizes and the number of ranks: every rank finds the same.
#pragma once
#include <vector>

#include "model/weights.h"

namespace nestling {

// A run of one parameter's elements.
struct ParameterRun {
  int64_t parameter, begin, count;
};

struct OptimizerShard {
  int64_t begin, count;            // in flat_masters() and flat_gradients()
  std::vector<ParameterRun> runs;  // of what is trained, in that order
  int64_t blocks;                  // of the norm
};

std::vector<OptimizerShard> optimizer_shards(const Weights& weights, int ranks);

}  // namespace nestling
