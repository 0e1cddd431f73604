#include "runtime/latency_grid.h"

#include <algorithm>
#include <cmath>

namespace nestling {

namespace {

using Shares = std::map<Axis, double>;

std::vector<Axis> axes_measured(const ModelConfig& config, LayerKind kind) {
  std::vector<Axis> axes;
  for (const Axis axis : axes_of(config, kind))
    if (axis != Axis::kMambaChannels) axes.push_back(axis);
  return axes;
}

int64_t width_near(const ModelConfig& config, Axis axis, double share) {
  const WidthRule rule = width_rule(config, axis);
  return rule.nearest(share * static_cast<double>(rule.extent));
}

std::vector<Shares> points_of(const std::vector<Axis>& axes, const std::vector<double>& shares) {
  const auto all_at = [&](double share) {
    Shares point;
    for (const Axis axis : axes) point[axis] = share;
    return point;
  };
  std::vector<Shares> points = {all_at(1)};
  for (const double share : shares) {
    if (share == 1) continue;
    for (const Axis axis : axes) {
      points.push_back(all_at(1));
      points.back()[axis] = share;
    }
    if (axes.size() > 1) points.push_back(all_at(share));
  }
  return points;
}

void set_layer(const ModelConfig& config, int64_t layer, const Shares& shares, Widths& widths) {
  for (const auto& [axis, share] : shares)
    width_of(widths, layer, axis) = width_near(config, axis, share);
}

void add_new(std::vector<Widths>& all, const Widths& widths) {
  if (std::find(all.begin(), all.end(), widths) == all.end()) all.push_back(widths);
}

// All axes at one share.
Widths evenly(const ModelConfig& config, double share) {
  Widths widths = full_widths(config);
  widths.hidden = width_near(config, Axis::kHidden, share);
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_measured(config, config.kind(l)))
      width_of(widths, l, axis) = width_near(config, axis, share);
  return widths;
}

}  // namespace

std::vector<Widths> latency_grid(const ModelConfig& config, const std::vector<double>& shares) {
  std::map<LayerKind, std::vector<Shares>> points;
  size_t most = 0;
  for (int64_t l = 0; l < config.layers(); ++l) {
    const LayerKind kind = config.kind(l);
    points[kind] = points_of(axes_measured(config, kind), shares);
    most = std::max(most, points[kind].size());
  }
  std::vector<Widths> grid;
  for (const double share : shares)
    for (size_t i = 0; i < most; ++i) {
      Widths widths = full_widths(config);
      widths.hidden = width_near(config, Axis::kHidden, share);
      for (int64_t l = 0; l < config.layers(); ++l) {
        const std::vector<Shares>& of_kind = points[config.kind(l)];
        set_layer(config, l, of_kind[i % of_kind.size()], widths);
      }
      add_new(grid, widths);
    }
  return grid;
}

std::vector<std::pair<std::string, Widths>> held_out_widths(const ModelConfig& config,
                                                            const std::vector<double>& shares) {
  std::vector<Widths> seen = latency_grid(config, shares);
  std::vector<std::pair<std::string, Widths>> held_out;
  const auto add = [&](const std::string& name, const Widths& widths) {
    const size_t before = seen.size();
    add_new(seen, widths);
    if (seen.size() > before) held_out.emplace_back(name, widths);
  };
  for (size_t i = 1; i < shares.size(); ++i) {
    const double share = (shares[i - 1] + shares[i]) / 2;
    add(str("all at ", 100 * share, "%"), evenly(config, share));
  }
  constexpr int64_t kEvery = 4;
  Widths shallow = full_widths(config);
  for (int64_t l = kEvery - 1; l < config.layers(); l += kEvery)
    shallow.layers[static_cast<size_t>(l)].kept = 0;
  add("three layers of four", shallow);
  return held_out;
}

std::map<Axis, int64_t> least_widths(const ModelConfig& config, const std::vector<Widths>& grid) {
  std::map<Axis, int64_t> least = {{Axis::kLayers, 1}};
  const auto see = [&](Axis axis, int64_t width) {
    const auto at = least.emplace(axis, width).first;
    at->second = std::min(at->second, width);
  };
  for (const Widths& widths : grid) {
    see(Axis::kHidden, widths.hidden);
    for (int64_t l = 0; l < config.layers(); ++l)
      for (const Axis axis : axes_of(config, config.kind(l))) see(axis, width_of(widths, l, axis));
  }
  return least;
}

}  // namespace nestling
