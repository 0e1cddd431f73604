// latency_fit.h - the rates of a latency (model/cost.h) that agree best with what was measured.
//
// Fit           rates of 0 or more that make the sum of (fitted / measured - 1)^2 over the points
//               least: relative, so that a small width counts as much as a large one. Counts are
//               CostFunction's own, taken at unit rates, so fit and budget cannot differ in what
//               they count.
// Exact         of a least-squares problem with the bound 0 the answer is the free one of some
//               subset of the unknowns; there are four, so every subset is solved (Eigen, QR with
//               column pivoting). A subset whose counts the points cannot tell apart is none; of
//               equally good ones the smaller is taken, and the first of as many.
// Errors        kInput: no points, or one that is not positive.
#pragma once
#include <vector>

#include "model/cost.h"

namespace nestling {

struct LatencyPoint {
  Widths widths;      // of the whole model
  double ns = 0;      // of all layers of the part together, in one step
  double spread = 0;  // of its repetitions, as a share of it (tools/profile.h)
};

// Overwrites the rates of `part` in `terms`, which says context and batch.
void fit_latency(const ModelConfig& config, LatencyPart part,
                 const std::vector<LatencyPoint>& points, LatencyTerms& terms);
// What the rates of that part alone make of these widths.
double fitted_ns(const ModelConfig& config, LatencyPart part, const LatencyTerms& terms,
                 const Widths& widths);

}  // namespace nestling
