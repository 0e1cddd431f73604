#include "trainer/run/step_log.h"

#include <sys/resource.h>

namespace nestling {

namespace {

double peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

double share_of_width(const AxisChoices& axis, const std::vector<double>& p) {
  double width = 0;
  for (size_t i = 0; i < p.size(); ++i) width += p[i] * static_cast<double>(axis.widths[i]);
  return width / static_cast<double>(axis.widths.front());
}

}  // namespace

LogRecord step_record(const RunConfig& config, const ElasticSpace& space,
                      const RouterTraining& router, const DistillResult& result,
                      const TrainingCounters& at, double lr, const StepCost& cost) {
  const double gflops = cost.flops / cost.seconds * 1e-9;
  LogRecord record{.step = at.step,
                   .tokens = at.tokens,
                   .scalars = {{"loss", result.loss},
                               {"budget_loss", result.budget},
                               {"grad_norm", result.grad_norm},
                               {"lr", lr},
                               {"tokens_per_second", cost.tokens / cost.seconds},
                               {"gflops", gflops},
                               {"memory_bytes", peak_resident_bytes()},
                               {"sliced", router.frozen() ? 1.0 : 0.0},
                               {"skipped", static_cast<double>(at.skipped)}},
                   .event = {}};
  if (cost.peak_gflops > 0) record.scalars["share_of_peak"] = gflops / cost.peak_gflops;
  if (!router.frozen()) {
    record.scalars["router_lr"] = config.router.lr;
    record.scalars["router_temperature"] = router.plain(0, at.tokens).tau;
  }
  for (int64_t s = 0; s < router.sizes(); ++s) {
    const SizeLoss& size = result.sizes[static_cast<size_t>(s)];
    const std::string tag = "size/" + config.elastic.sizes[static_cast<size_t>(s)].name;
    if (size.tokens > 0) {
      record.scalars[tag + "/kl"] = size.kl;
      record.scalars[tag + "/cost_of_budget"] = size.cost;
      if (size.imbalance > 0) record.scalars[tag + "/expert_imbalance"] = size.imbalance;
    }
    const RouterDraw draw = router.plain(s, at.tokens);
    for (size_t a = 0; a < space.axes.size(); ++a) {
      const AxisChoices& axis = space.axes[a];
      const auto chosen = static_cast<size_t>(router.selections()[static_cast<size_t>(s)][a]);
      record.scalars[tag + "/width/" + axis_name(axis.axis)] =
          router.frozen()
              ? static_cast<double>(axis.widths[chosen]) / static_cast<double>(axis.widths.front())
              : share_of_width(axis, draw.soft[a]);
    }
    if (router.frozen()) continue;
    record.scalars[tag + "/least_probability"] = router.probability(s, at.tokens);
    record.scalars[tag + "/entropy"] = router.entropy(s, at.tokens);
  }
  return record;
}

}  // namespace nestling
