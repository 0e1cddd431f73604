// Importance by axis and layer: what the sizes keep is the left end of each curve.
#include <algorithm>
#include <cmath>

#include "trainer/run/html_text.h"
#include "trainer/run/report_figures.h"
#include "trainer/run/svg_rows.h"

namespace nestling {

namespace {

constexpr Axis kAxes[] = {Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState,
                          Axis::kQueryHeads, Axis::kFfn,           Axis::kExperts,
                          Axis::kExpertFfn,  Axis::kSharedFfn};

// The kind of a layer is known by what it has scores of.
std::string layer_label(const Scores& scores, size_t layer) {
  const auto& axes = scores.layers[layer];
  const char* kind = axes.contains(Axis::kMambaHeads)   ? " Mamba"
                     : axes.contains(Axis::kQueryHeads) ? " attention"
                     : axes.contains(Axis::kExperts)    ? " MoE"
                     : axes.contains(Axis::kFfn)        ? " FFN"
                                                        : "";
  return str(layer, kind);
}

std::vector<double> falling(std::vector<double> values) {
  std::stable_sort(values.begin(), values.end(),
                   [](double a, double b) { return std::isnan(b) ? !std::isnan(a) : a > b; });
  return values;
}

// Channels of experts: each expert's own order, then the mean of every rank over the experts.
std::vector<double> falling_by_expert(const std::vector<double>& all, size_t experts) {
  if (experts == 0 || all.size() % experts != 0) return falling(all);
  const size_t channels = all.size() / experts;
  std::vector<double> mean(channels, 0);
  for (size_t e = 0; e < experts; ++e) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(e * channels);
    const std::vector<double> own = falling({begin, begin + static_cast<std::ptrdiff_t>(channels)});
    for (size_t c = 0; c < channels; ++c) mean[c] += own[c] / static_cast<double>(experts);
  }
  return mean;
}

CurveRow curve_row(const std::string& label, std::vector<double> values) {
  const std::string most = values.empty() ? "none" : short_number(values.front());
  return {.label = label, .values = std::move(values), .text = most};
}

// Where each size cuts the axis: the first layer that has it speaks for all.
std::vector<CurveChart::Cut> cuts(const RunRecord& run, Axis axis) {
  std::vector<CurveChart::Cut> all;
  if (!run.elastic) return all;
  const ModelConfig& config = run.elastic->model.config;
  const std::vector<std::string> names = run.size_names();
  int64_t layer = -1;
  for (int64_t l = 0; l < config.layers() && layer < 0; ++l)
    for (const Axis mine : axes_of(config, config.kind(l)))
      if (mine == axis) layer = l;
  if (axis != Axis::kHidden && layer < 0) return all;
  const Widths full = full_widths(config);
  for (const Size& s : run.elastic->model.sizes) {
    const double share = static_cast<double>(width_of(s.widths, layer, axis)) /
                         static_cast<double>(width_of(full, layer, axis));
    const auto place = std::find(names.begin(), names.end(), s.name) - names.begin();
    if (share < 1)
      all.push_back(
          {share, static_cast<int>(place), str(s.name, " keeps ", short_number(100 * share), "%")});
  }
  return all;
}

std::string axis_figure(const RunRecord& run, Axis axis, std::vector<CurveRow> rows) {
  const std::string name = axis_name(axis), title = "Importance of " + name;
  std::string caption = axis == Axis::kHidden ? "One order for the whole model."
                        : axis == Axis::kExpertFfn
                            ? "Each expert's channels sorted, then the mean over experts."
                            : "";
  const std::string svg = curves_svg({.title = title,
                                      .x_label = "units of " + name + ", most important first",
                                      .rows = std::move(rows),
                                      .cuts = cuts(run, axis)});
  return figure({"fig-importance-" + name, title, "measured", caption, svg});
}

std::string depth_figure(const RunRecord& run) {
  const Scores& scores = *run.scores;
  BarChart chart{.title = "Importance of layers",
                 .x_label = "score of the layer (larger: more is lost without it)",
                 .width = 348,
                 .longest_text = 8,
                 .rows = {}};
  for (size_t l = 0; l < scores.depth.size(); ++l)
    chart.rows.push_back({l < scores.layers.size() ? layer_label(scores, l) : std::to_string(l),
                          {{.name = str("layer ", l),
                            .color = -1,
                            .value = scores.depth[l],
                            .text = short_number(scores.depth[l])}}});
  return figure({"fig-importance-layers", chart.title, "measured", "Layers in their order.",
                 bars_svg(chart)});
}

}  // namespace

std::string importance_figures(const RunRecord& run) {
  if (!run.scores)
    return no_figure("fig-importance", "Importance by layer and axis",
                     "scores.json is not in the run folder");
  const Scores& scores = *run.scores;
  std::string out =
      "<p>Scores of the parent on calibration text, sorted within each layer and "
      "drawn from 0 to the layer's greatest, which stands behind the row. A size keeps "
      "what is left of its line. Scores compare within an axis, not between axes.</p>";
  if (!run.score_origin.empty())
    out += "<p class=\"quiet\">Measured on: " + escape_html(run.score_origin) + "</p>";
  out += legend(run.size_names()) + "<div class=\"panels\">";
  if (!scores.hidden.empty())
    out += axis_figure(run, Axis::kHidden, {curve_row("all layers", falling(scores.hidden))});
  for (const Axis axis : kAxes) {
    std::vector<CurveRow> rows;
    for (size_t l = 0; l < scores.layers.size(); ++l) {
      const auto& layer = scores.layers[l];
      const auto found = layer.find(axis);
      if (found == layer.end()) continue;
      const auto experts = layer.find(Axis::kExperts);
      rows.push_back(curve_row(layer_label(scores, l),
                               axis == Axis::kExpertFfn && experts != layer.end()
                                   ? falling_by_expert(found->second, experts->second.size())
                                   : falling(found->second)));
    }
    if (!rows.empty()) out += axis_figure(run, axis, std::move(rows));
  }
  if (!scores.depth.empty()) out += depth_figure(run);
  return out + "</div>";
}

}  // namespace nestling
