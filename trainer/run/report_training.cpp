// The curves of the training: what the log holds over the tokens seen.
#include <algorithm>
#include <cmath>

#include "trainer/run/html_text.h"
#include "trainer/run/report_figures.h"

namespace nestling {

namespace {

constexpr const char* kTokens = "unique tokens (a token counts once, however many sizes saw it)";

std::vector<PlotPoint> over_tokens(const RunRecord& run, const std::string& key) {
  std::vector<PlotPoint> points;
  for (const LoggedStep& s : run.steps)
    if (const auto found = s.scalars.find(key); found != s.scalars.end())
      points.push_back({static_cast<double>(s.tokens), found->second});
  return points;
}

// Phases as the run takes them: whole steps.
std::vector<PlotBand> phase_bands(const RunRecord& run, bool labels) {
  std::vector<PlotBand> bands;
  if (!run.config) return bands;
  double from = 0;
  for (const PhaseConfig& p : run.config->curriculum) {
    if (p.global_batch_tokens < 1) return {};
    const int64_t batch = p.global_batch_tokens;
    const int64_t taken = (p.tokens + batch - 1) / batch * batch;
    const double to = from + static_cast<double>(taken);
    bands.push_back({from, to, labels ? "phase " + p.name : ""});
    from = to;
  }
  return bands;
}

std::vector<PlotMark> freeze_mark(const RunRecord& run, bool label) {
  if (const auto at = run.frozen_at()) return {{*at, label ? "choices frozen" : ""}};
  return {};
}

std::string odd_values(const std::vector<PlotSeries>& all) {
  int64_t odd = 0;
  for (const PlotSeries& s : all)
    odd += std::count_if(s.points.begin(), s.points.end(),
                         [](const PlotPoint& p) { return !std::isfinite(p.y); });
  return odd == 0 ? ""
                  : str(" ", odd, odd == 1 ? " value is" : " values are",
                        " not finite: the crosses on the upper edge.");
}

std::vector<PlotSeries> series_of_sizes(const RunRecord& run, const char* key) {
  std::vector<PlotSeries> all;
  const std::vector<std::string> names = run.size_names();
  for (size_t i = 0; i < names.size(); ++i) {
    auto points = over_tokens(run, "size/" + names[i] + "/" + key);
    if (!points.empty())
      all.push_back({.name = names[i], .color = static_cast<int>(i), .points = std::move(points)});
  }
  return all;
}

struct SmallFigure {
  const char* key;
  const char* id;
  const char* title;
  const char* y_label;
  const char* caption;
  Scale::Options y;
};

constexpr Scale::Options kFromZero = {.zero = true, .most_ticks = 5};
constexpr Scale::Options kLogarithmic = {.kind = ScaleKind::kLog, .most_ticks = 4};

const SmallFigure kSmall[] = {
    {"loss", "fig-loss", "Loss", "loss, nats a token",
     "Of the step: KL of its sizes, and cross-entropy as far as the config weighs it.",
     kLogarithmic},
    {"lr", "fig-lr", "Learning rate", "learning rate", "Of the student's weights, as scheduled.",
     kFromZero},
    {"grad_norm", "fig-grad-norm", "Gradient norm", "L2 norm",
     "Of the gradient of all weights, before clipping.", kLogarithmic},
    {"tokens_per_second", "fig-rate", "Training speed", "unique tokens a second",
     "Of whole steps as logged: data, teacher, every size, optimizer.", kFromZero},
};

std::string small_figure(const RunRecord& run, const SmallFigure& f) {
  std::vector<PlotSeries> series = {{.name = "", .color = 0, .points = over_tokens(run, f.key)}};
  if (series[0].points.empty())
    return no_figure(f.id, f.title, str("the log holds no \u201c", f.key, "\u201d"));
  const std::string odd = odd_values(series);
  const std::string svg = plot_svg({.title = f.title,
                                    .x_label = "unique tokens",
                                    .y_label = f.y_label,
                                    .width = 348,
                                    .height = 210,
                                    .x = {.exact = true, .most_ticks = 5},
                                    .y = f.y,
                                    .series = std::move(series),
                                    .bands = phase_bands(run, false),
                                    .marks = freeze_mark(run, false)});
  const bool set = std::string_view(f.key) == "lr";
  return figure({f.id, f.title, set ? "as scheduled" : "measured", f.caption + odd, svg});
}

}  // namespace

std::string kl_figure(const RunRecord& run) {
  constexpr const char* kId = "fig-kl";
  constexpr const char* kTitle = "KL to the parent over training, each size";
  std::vector<PlotSeries> series = series_of_sizes(run, "kl");
  if (series.empty()) return no_figure(kId, kTitle, "the log holds no step with a KL of a size");
  const std::string odd = odd_values(series);
  std::string caption =
      "Mean KL divergence from the parent to the size on the training tokens of a step, "
      "logarithmic "
      "scale; what is below the axis is drawn on its edge.";
  caption +=
      run.frozen_at()
          ? " Before the dashed line the router mixes widths (expected masks, so the sizes are "
            "wider or softer than in the end); after it every size is a fixed slice."
          : " The choices were not frozen in what the log holds.";
  if (!run.config) caption += " Phases are not shaded: there is no config of the run.";
  const std::string svg = plot_svg({.title = kTitle,
                                    .x_label = kTokens,
                                    .y_label = "KL, nats a token",
                                    .height = 320,
                                    .y = {.kind = ScaleKind::kLog},
                                    .series = std::move(series),
                                    .bands = phase_bands(run, true),
                                    .marks = freeze_mark(run, true)});
  return figure({kId, kTitle, "measured", caption + odd, svg});
}

std::string training_figures(const RunRecord& run) {
  std::string out = "<div class=\"panels\">";
  for (const SmallFigure& f : kSmall) out += small_figure(run, f);
  return out + "</div>";
}

std::string budget_figure(const RunRecord& run) {
  constexpr const char* kId = "fig-budget";
  constexpr const char* kTitle = "Budget error over training, each size";
  std::vector<PlotSeries> series = series_of_sizes(run, "cost_of_budget");
  if (series.empty()) return no_figure(kId, kTitle, "the log holds no step with a cost of a size");
  for (PlotSeries& s : series)
    for (PlotPoint& p : s.points) p.y = 100 * (p.y - 1);
  std::string caption =
      "Cost of a size against its budget; 0 is met exactly. Not measured but computed: before the "
      "freeze from the router's draws of the step, noise and all, as the mean over them; after it "
      "from the widths themselves.";
  const double zone = run.config ? 100 * run.config->router.dead_zone : 0;
  if (zone > 0)
    caption += str(" Shaded: the dead zone of \u00b1", short_number(zone),
                   "%, within which the router is not pushed.");
  const std::string odd = odd_values(series);
  const std::string svg = plot_svg({.title = kTitle,
                                    .x_label = kTokens,
                                    .y_label = "cost above (+) or below (\u2212) the budget, %",
                                    .height = 260,
                                    .y = {.zero = true},
                                    .series = std::move(series),
                                    .bands = phase_bands(run, true),
                                    .marks = freeze_mark(run, true),
                                    .shade_from = -zone,
                                    .shade_to = zone});
  return figure({kId, kTitle, "exact", caption + odd, svg});
}

}  // namespace nestling
