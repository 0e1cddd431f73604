// order.h - from scores to an order on every axis, and a parent put in that order.
//
// Ties          units of equal score keep their places: all zero scores leave the parent as it is.
// Equality      the sorted parent computes what the parent does: every sum has the same terms, in
//               another order. Undone, its weights are the parent's bit for bit.
// Undoing       inverse() inverts every list; `depth` stays, since layers do not move.
// Errors        scores or orders that do not fit the architecture, scores that are not finite, and
//               orders that leave their groups throw Error naming `where` they come from, layer,
//               axis and unit.
#pragma once
#include "model/units.h"
#include "model/weights.h"

namespace nestling {

// Values units.h keeps for an axis of one layer (kHidden: of the model; kLayers: layers).
int64_t unit_count(const ModelConfig& config, Axis axis);

// Every unit in its place: all orders 0, 1, 2, ...
Order identity_order(const ModelConfig& config);
// Falling score within each group.
Order order_from_scores(const ModelConfig& config, const Scores& scores,
                        const std::string& where = "scores");
Order inverse(const ModelConfig& config, const Order& order);
void check_order(const ModelConfig& config, const Order& order, const std::string& where = "order");

// One tensor of the list, f32 and dense, put in that order; checked by nobody.
void permute(const ParameterSpec& spec, const Order& order, View tensor);
// Permutes every tensor of the list in place, on whatever device; refreshes the low copies.
// Gradients stay as they are. Memory: two copies of the largest tensor, on the host.
void apply_order(const ModelConfig& config, const Order& order, Weights& weights);

}  // namespace nestling
