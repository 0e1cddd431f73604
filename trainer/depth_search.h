// depth_search.h - layers by what the logits lose without them, found greedily.
//
//   error(kept) = sum over tokens |logits_parent - logits_kept|^2 / sum over tokens |logits_parent|^2
//
// Search        of the layers still there, leave out the one whose absence makes the smallest error,
//               and repeat until none is left (Nemotron Elastic, arXiv 2511.16664: "iteratively").
//               The score of a layer is the error at which it went: the last to go scores highest. An
//               error not above the one before counts as just above it, so that the scores' order is
//               that of the search.
// Logits        are never formed: with G = W^T W of the output projection, |d W^T|^2 = d G d^T for the
//               difference d of two final hidden states.
// Cost          about L^3/3 layer forwards of the batches, L layers: 48 forwards for 12 layers.
// Ranks         each holds its share of the batches; every rank finds the same order.
// Memory        from the arena: final hidden states of the parent [tokens, D], G [D, D], and one forward.
// Null device   counts what the search does where layers go in the order they stand in.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "data/batches.h"
#include "kernels/comm/comm.h"
#include "model/parameters.h"

namespace nestling {

// One score a layer, larger = more important: Scores::depth. Every rank calls `between`, which may throw, at
// the same places.
std::vector<double> search_depth(Context& ctx, Arena& arena, const ModelConfig& config,
                                 const ModelParams<Weight>& w, std::span<const Batch> batches,
                                 DType activations, Comm& comm,
                                 const std::function<void()>& between = {});

}  // namespace nestling
