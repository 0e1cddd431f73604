// report_figures.h - the parts of the report, each a piece of HTML made of what a run folder held.
//
// Every part    has an id, a title, axes with units, and a caption that says what was measured, on
//               what. A part whose data is not there says so in its place.
// Colours       a size has the same one in all figures: its place in RunRecord::size_names.
#pragma once
#include "trainer/run/report_data.h"
#include "trainer/run/svg_plot.h"

namespace nestling {

std::string size_table(const RunRecord& run);          // id table-sizes
std::string quality_figures(const RunRecord& run);     // fig-accuracy-active, fig-kl-active
std::string speed_figures(const RunRecord& run);       // fig-accuracy-speed, fig-kl-speed
std::string kl_figure(const RunRecord& run);           // fig-kl
std::string training_figures(const RunRecord& run);    // fig-loss, fig-lr, fig-grad-norm, ...
std::string budget_figure(const RunRecord& run);       // fig-budget
std::string width_figure(const RunRecord& run);        // fig-widths
std::string importance_figures(const RunRecord& run);  // fig-importance-AXIS, fig-importance-layers

// A figure with its caption; `label` is what its numbers are: measured, exact.
struct Figure {
  std::string id, title, label, caption;  // escaped by figure()
  std::string svg;
};
std::string figure(const Figure& f);
// In the place of a figure, why there is none.
std::string no_figure(const std::string& id, const std::string& title, const std::string& why);
std::string legend(const std::vector<std::string>& names);  // in the order of their colours

}  // namespace nestling
