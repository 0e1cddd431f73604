// latency_grid.h - at which widths a decoding step is measured, and which are kept back as a test.
//
// Grid          for every share of the hidden channels, each kind of layer takes its points one
//               after the other: all its axes whole; each axis alone at every smaller share; all
//               of them there together. All kinds move at once, so there are as many whole models
//               as the kind with the most axes has points.
// Left whole    channels of a Mamba head, as a step gathers the weights of a prefix of them
//               (model/layers/gather.h), which is no sum of products of widths; and layers, which
//               all stay.
// Held out      whole models of the shares halfway between those of the grid, of all axes
//               together; and without every fourth layer.
// Widths        the good ones nearest to the shares (WidthRule); of two that are the same one
//               stays.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/widths.h"

namespace nestling {

inline const std::vector<double> kLatencyShares = {1, 0.75, 0.5};

// `shares` fall from 1.
std::vector<Widths> latency_grid(const ModelConfig& config, const std::vector<double>& shares);
std::vector<std::pair<std::string, Widths>> held_out_widths(const ModelConfig& config,
                                                            const std::vector<double>& shares);
// The least width of every axis that the model has in any of them; of layers 1.
std::map<Axis, int64_t> least_widths(const ModelConfig& config, const std::vector<Widths>& grid);

}  // namespace nestling
