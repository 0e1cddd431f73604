// calibration.h - the pass over calibration text that scores every unit of the parent.
//
// Ranks         sequences are dealt as training deals them; every rank returns the same scores.
//               Sequences beyond a whole number a rank are refused, not dropped.
// Memory        from the arena, on the context's device: activations of one micro-batch as a training forward
//               saves them, then what the search of layers takes; the sums in f64 beside it.
// Errors        options that do not divide throw kInput.
#pragma once
#include <functional>

#include "data/batches.h"
#include "kernels/comm/comm.h"
#include "model/parameters.h"
#include "model/units.h"
#include "trainer/run_config.h"

namespace nestling {

struct CalibrationOptions {
  int64_t samples = 1024;   // sequences, over all ranks
  int64_t micro_batch = 1;  // sequences a rank runs at once
  int64_t depth_samples =
      0;  // the first of them, for the greedy search of layers (depth_search.h);
          // 0: layers are scored by their cosine
  int64_t head_channels = 0;        // Mamba channels heads are ranked by (importance.h); 0: all
  DType activations = DType::kF32;  // of the forward that they are taken from
  std::function<void(int64_t done, int64_t of)> progress = {};  // in sequences
  std::function<void()> between = {};  // batches: every rank calls it at the same places; may throw
};
// Those of a run, but for the callbacks.
CalibrationOptions calibration_options(const RunConfig& config, const ModelConfig& model);

// load(position, count): of sequences [position, position + count) of the calibration text this
// rank's share, as Batches::load(position, count, rank, ranks) returns it.
using LoadSequences = std::function<Batch(int64_t position, int64_t count)>;

Scores run_importance(Context& ctx, Arena& arena, const ModelConfig& config,
                      const ModelParams<Weight>& w, const LoadSequences& load,
                      const CalibrationOptions& options, Comm& comm);

}  // namespace nestling
