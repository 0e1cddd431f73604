// step_shape.h - what of its micro-batches the memory of a training step depends on, and the batch that
// needs the most of all with that shape: a step on a CUDA device takes its memory before it begins.
//
// Tokens        and everything per token grow with the tokens of a micro-batch; (token, expert) pairs are
//               tokens times top-k, whatever the loads.
// Segments      what is cut into pieces of k tokens has at most segments + (tokens - segments) / k of
//               them: as many as where all segments but one are a single token.
#pragma once
#include <vector>

#include "data/batches.h"

namespace nestling {

struct StepShape {
  int64_t tokens = 0, segments = 0;  // the most of a micro-batch
  int64_t draws = 0;                 // of sizes under masks
  bool sliced = false;

  bool holds(const StepShape& other) const {
    return tokens >= other.tokens && segments >= other.segments && draws >= other.draws &&
           sliced == other.sliced;
  }
};

// Segments are rounded up to a power of two: their number varies from step to step.
StepShape shape_of(const std::vector<Batch>& micro_batches);
// The most of both; `sliced` is the latter's.
StepShape joined(const StepShape& a, const StepShape& b);
Batch largest_batch(const StepShape& shape);

}  // namespace nestling
