// What the sizes are and how good: the table, quality against what they cost, their widths.
#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/run/html_text.h"
#include "trainer/run/report_figures.h"
#include "trainer/run/svg_rows.h"

namespace nestling {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr Quality kUnknown = {kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, 0};

// One row of the table, from whichever file knows it.
struct SizeRow {
  std::string name;
  int color = 0;
  int64_t total = 0, active = 0;  // 0: not known
  double budget_error = kNaN;     // share
  Quality after = kUnknown, before = kUnknown;
};

std::vector<SizeRow> size_rows(const RunRecord& run) {
  std::vector<SizeRow> rows;
  for (const std::string& name : run.size_names()) {
    SizeRow row{.name = name, .color = static_cast<int>(rows.size())};
    if (run.elastic) {
      const ElasticModel& model = run.elastic->model;
      for (const Size& s : model.sizes) {
        if (s.name != name) continue;
        const ParameterCost cost = parameter_cost(model.config, s.widths);
        const CostFunction of(model.config, s.target);
        row.total = cost.total;
        row.active = cost.active;
        row.budget_error =
            of(expected(s.widths)) / of(expected(full_widths(model.config))) / s.budget - 1;
      }
    }
    if (run.summary)
      for (const SizeQuality& s : run.summary->sizes) {
        if (s.name != name) continue;
        row.total = s.params_total;
        row.active = s.params_active;
        row.after = s.after;
        row.before = s.before;
      }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string cell(const std::string& text, const std::string& below = "") {
  return "<td>" + text + (below.empty() ? "" : "<small>" + below + "</small>") + "</td>";
}

std::string before_text(const std::string& number) {
  return "before " + number;
}

// Score intervals lie unevenly about the estimate, so both ends are given.
std::string accuracy_cell(const Quality& q, const Quality& before, bool with_before) {
  std::string text = fixed_number(100 * q.accuracy, 1);
  if (!std::isnan(q.low))
    text += " <span class=\"interval\">[" + fixed_number(100 * q.low, 1) + ", " +
            fixed_number(100 * q.high, 1) + "]</span>";
  std::string below;
  if (with_before) {
    below = before_text(fixed_number(100 * before.accuracy, 1));
    if (!std::isnan(before.low))
      below += " [" + fixed_number(100 * before.low, 1) + ", " +
               fixed_number(100 * before.high, 1) + "]";
  }
  return cell(text, below);
}

std::string count_cell(int64_t count, int64_t whole) {
  if (count == 0) return cell(fixed_number(kNaN, 0));
  const double share = 100 * static_cast<double>(count) / static_cast<double>(whole);
  return cell(whole_number(count), whole > 0 ? fixed_number(share, 1) + "%" : "");
}

std::string rate_cell(double rate) {
  return cell(std::isfinite(rate) && std::fabs(rate) < 1e15
                  ? whole_number(static_cast<int64_t>(std::llround(rate)))
                  : fixed_number(rate, 0));
}

std::string quality_cells(const Quality& q, const Quality& before, bool with_before) {
  const auto both = [&](double now, double then, int decimals) {
    return cell(fixed_number(now, decimals),
                with_before ? before_text(fixed_number(then, decimals)) : "");
  };
  return both(q.perplexity, before.perplexity, 2) + both(q.kl, before.kl, 4) +
         accuracy_cell(q, before, with_before) + rate_cell(q.tokens_per_second);
}

std::string swatch(int color) {
  return "<svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><circle cx=\"5\" "
         "cy=\"5\" r=\"4\" class=\"dot " +
         color_class(color) + "\"/></svg>";
}

int64_t problems_asked(const RunRecord& run) {
  if (run.summary)
    for (const SizeQuality& s : run.summary->sizes)
      if (s.after.problems > 0) return s.after.problems;
  return 0;
}

std::string accuracy_label(const RunRecord& run) {
  const int64_t n = problems_asked(run);
  return n > 0 ? str("accuracy, % of ", n, " held-out problems")
               : std::string("accuracy, % of held-out problems");
}

constexpr const char* kNoSummary = "summary.json is not in the run folder: not evaluated yet";

struct QualityFigure {
  const char* id;
  const char* title;
  bool accuracy;  // else KL
  bool speed;     // x is tokens a second, else active parameters
};

// A full-size cut differs from the parent by rounding alone: below this, KL is no distance.
constexpr double kKlOfRounding = 1e-7;

PlotPoint point_of(const QualityFigure& f, const SizeQuality& s, const Quality& q) {
  // A cut that was not timed by itself has the speed of the same widths after training.
  const double rate =
      std::isnan(q.tokens_per_second) ? s.after.tokens_per_second : q.tokens_per_second;
  const double kl = q.kl < kKlOfRounding ? 0 : q.kl;
  return {f.speed ? rate : static_cast<double>(s.params_active),
          f.accuracy ? 100 * q.accuracy : kl};
}

// The parent: a point where its place on the x axis is known.
void add_parent(const RunRecord& run, const QualityFigure& f, std::vector<PlotMove>& moves) {
  if (!run.summary->parent) return;
  const Quality& q = *run.summary->parent;
  const double active =
      run.elastic ? static_cast<double>(parameter_cost(run.elastic->model.config).active) : kNaN;
  const PlotPoint at{f.speed ? q.tokens_per_second : active, f.accuracy ? 100 * q.accuracy : q.kl};
  if (!f.accuracy || !std::isfinite(at.x) || !std::isfinite(at.y)) return;  // KL to itself is 0
  moves.push_back({.name = "parent",
                   .color = -1,
                   .before = {},
                   .after = at,
                   .low = 100 * q.low,
                   .high = 100 * q.high});
}

std::string quality_figure(const RunRecord& run, const QualityFigure& f) {
  if (!run.summary) return no_figure(f.id, f.title, kNoSummary);
  std::vector<PlotMove> moves;
  const std::vector<std::string> names = run.size_names();
  for (const SizeQuality& s : run.summary->sizes) {
    const auto place = std::find(names.begin(), names.end(), s.name) - names.begin();
    PlotMove move{.name = s.name,
                  .color = static_cast<int>(place),
                  .before = {point_of(f, s, s.before)},
                  .after = point_of(f, s, s.after),
                  .low = f.accuracy ? 100 * s.after.low : 0,
                  .high = f.accuracy ? 100 * s.after.high : 0};
    if (std::isfinite(move.after.x) && std::isfinite(move.after.y)) moves.push_back(move);
  }
  if (moves.empty())
    return no_figure(f.id, f.title, f.accuracy ? "no accuracy was measured" : "no KL was measured");
  add_parent(run, f, moves);
  std::string caption =
      str("Hollow: ", run.before_training(), ". Filled: the same widths after distillation.");
  if (f.accuracy) caption += " Vertical lines: 95% intervals of the accuracy.";
  if (!f.accuracy) caption += " Logarithmic; 0, up to rounding, is on the lower edge.";
  if (f.speed)
    caption +=
        " Time: forward and loss on the evaluation text, on the machine of the run. A cut and its "
        "trained size have the same widths: where their speeds differ, that is noise of the "
        "timing.";
  const std::string svg =
      plot_svg({.title = f.title,
                .x_label = f.speed ? "evaluated tokens a second"
                                   : "active parameters (touched by one token)",
                .y_label = f.accuracy ? accuracy_label(run) : "KL to the parent, nats a token",
                .width = 348,
                .height = 270,
                .x = {.most_ticks = 5},
                .y = {.kind = f.accuracy ? ScaleKind::kLinear : ScaleKind::kLog},
                .moves = std::move(moves)});
  return figure({f.id, f.title, "measured", caption, svg});
}

std::string width_text(int64_t width, int64_t full) {
  return str(width, " (",
             short_number(100 * static_cast<double>(width) / static_cast<double>(full)), "%)");
}

// Layers of one kind may differ: then the mean of them stands for the axis.
struct AxisWidth {
  double mean = 0;
  int64_t full = 0;  // 0: no layer has the axis
  bool alike = true;
  int64_t width = 0;
};

AxisWidth width_on(const ModelConfig& config, const Widths& widths, Axis axis) {
  const Widths full = full_widths(config);
  if (axis == Axis::kHidden)
    return {static_cast<double>(widths.hidden), full.hidden, true, widths.hidden};
  AxisWidth w;
  int64_t count = 0, sum = 0;
  for (int64_t l = 0; l < config.layers(); ++l) {
    const std::vector<Axis> has = axes_of(config, config.kind(l));
    if (axis == Axis::kLayers) {
      w.full += 1;
      w.width += width_of(widths, l, axis);
    } else if (std::find(has.begin(), has.end(), axis) != has.end()) {
      const int64_t here = width_of(widths, l, axis);
      w.alike = w.alike && (count == 0 || here == w.width);
      w.width = here;
      w.full = width_of(full, l, axis);
      sum += here;
      count += 1;
    }
  }
  w.mean = axis == Axis::kLayers ? static_cast<double>(w.width)
           : count > 0           ? static_cast<double>(sum) / static_cast<double>(count)
                                 : 0;
  return w;
}

}  // namespace

std::string size_table(const RunRecord& run) {
  const std::vector<SizeRow> rows = size_rows(run);
  if (rows.empty())
    return no_figure("table-sizes", "Sizes", "neither config, elastic file nor log name a size");
  int64_t total = 0, active = 0;
  for (const SizeRow& r : rows) {
    total = std::max(total, r.total);
    active = std::max(active, r.active);
  }
  std::string out =
      "<div class=\"scroll\"><table id=\"table-sizes\"><thead><tr><th>size</th><th>parameters"
      "<small>exact</small></th><th>active<small>exact</small></th><th>budget error"
      "<small>exact</small></th><th>perplexity<small>measured</small></th><th>KL to parent"
      "<small>measured, nats</small></th><th>accuracy<small>measured, % [95% interval]"
      "</small></th><th>tokens/s<small>measured</small></th></tr></thead><tbody>";
  if (run.summary && run.summary->parent)
    out += "<tr class=\"parent\"><th>parent</th>" + count_cell(total, total) +
           count_cell(active, active) + cell(fixed_number(kNaN, 0)) +
           quality_cells(*run.summary->parent, kUnknown, false) + "</tr>";
  for (const SizeRow& r : rows) {
    const std::string error = std::isnan(r.budget_error)
                                  ? fixed_number(kNaN, 0)
                                  : (r.budget_error < -5e-5 ? "\u2212" : "+") +
                                        fixed_number(100 * std::fabs(r.budget_error), 2) + "%";
    out += "<tr><th>" + swatch(r.color) + escape_html(shortened(r.name, 32)) + "</th>" +
           count_cell(r.total, total) + count_cell(r.active, active) + cell(error) +
           quality_cells(r.after, r.before, run.summary.has_value()) + "</tr>";
  }
  out += "</tbody></table></div><p class=\"quiet\">";
  if (const int64_t n = problems_asked(run); n > 0)
    out += str("Accuracy: ", n, " held-out reasoning problems a model. ");
  out += run.summary ? str("Before: ", run.before_training(), ".")
                     : escape_html(str("Nothing measured: ", kNoSummary, "."));
  return out + "</p>";
}

std::string quality_figures(const RunRecord& run) {
  return "<div class=\"panels\">" +
         quality_figure(
             run, {"fig-accuracy-active", "Accuracy against active parameters", true, false}) +
         quality_figure(run, {"fig-kl-active", "KL against active parameters", false, false}) +
         "</div>";
}

std::string speed_figures(const RunRecord& run) {
  return "<div class=\"panels\">" +
         quality_figure(run, {"fig-accuracy-speed", "Accuracy against speed", true, true}) +
         quality_figure(run, {"fig-kl-speed", "KL against speed", false, true}) + "</div>";
}

std::string width_figure(const RunRecord& run) {
  constexpr const char* kId = "fig-widths";
  constexpr const char* kTitle = "Widths of each size";
  if (!run.elastic) return no_figure(kId, kTitle, "elastic.h5 is not in the run folder");
  const ModelConfig& config = run.elastic->model.config;
  const std::vector<std::string> names = run.size_names();
  BarChart chart{.title = kTitle, .x_label = "share of the parent's width, %", .rows = {}};
  for (const Axis axis :
       {Axis::kHidden, Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState, Axis::kQueryHeads,
        Axis::kFfn, Axis::kExperts, Axis::kExpertFfn, Axis::kSharedFfn, Axis::kLayers}) {
    BarRow row{axis_name(axis), {}};
    for (const Size& s : run.elastic->model.sizes) {
      const AxisWidth w = width_on(config, s.widths, axis);
      if (w.full == 0) continue;
      const auto place = std::find(names.begin(), names.end(), s.name) - names.begin();
      row.bars.push_back(
          {.name = s.name + ", " + row.label,
           .color = static_cast<int>(place),
           .value = 100 * w.mean / static_cast<double>(w.full),
           .text = w.alike ? width_text(w.width, w.full) : "mean " + short_number(w.mean)});
    }
    if (!row.bars.empty()) chart.rows.push_back(std::move(row));
  }
  return figure({kId, kTitle, "exact",
                 "What the router chose, and the files hold. An axis at 100% in every size was "
                 "not offered, or not cut.",
                 legend(names) + bars_svg(chart)});
}

}  // namespace nestling
