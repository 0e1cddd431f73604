// router_record.h - a router as an elastic file keeps it: all that is needed to ask it again.
//
// Text          JSON: hidden, tau and logit_scale [first, last], hard_share, dead_zone, choices
//               [{axis, layer (null: all), widths}], layer_order (with a choice of layers). Place i of the
//               router's input is the file's size of place i, whose budget and kind of cost the size has.
// Tensors       AXIS.first [hidden, sizes] and AXIS.second [choices, hidden], f32, row by row; of one
//               layer alone AXIS.LAYER.first.
// Errors        kInput naming the part that is missing or does not fit.
#pragma once
#include <memory>

#include "model/elastic_model.h"
#include "model/router.h"

namespace nestling {

RouterBlob record_router(const Router& router);

struct RecordedRouter {
  std::unique_ptr<const ElasticSpace> space;  // the router borrows it
  Router router;
};
RecordedRouter recorded_router(const ModelConfig& config, int64_t sizes, const RouterBlob& blob,
                               const std::string& where);

// For every choice on every axis the widths with that one choice: the edges a size may be cut at. None
// without a router.
std::vector<Widths> choice_edges(const ModelConfig& config, int64_t sizes, const RouterBlob& blob,
                                 const std::string& where);

}  // namespace nestling
