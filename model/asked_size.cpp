#include "model/asked_size.h"

#include <cmath>
#include <optional>

#include "model/router_record.h"

namespace nestling {

namespace {

bool same_target(const CostTarget& a, const CostTarget& b) {
  return a.kind == b.kind && (a.kind != CostKind::kMemory || a.memory == b.memory) &&
         (a.kind != CostKind::kLatency || a.latency == b.latency);
}

// What all sizes but the full one were given in; their budgets fall.
CostTarget common_target(const ModelConfig& config, const std::vector<Size>& sizes,
                         const std::string& where) {
  const Size* first = nullptr;
  for (size_t s = 0; s < sizes.size(); ++s) {
    const Size& size = sizes[s];
    NESTLING_CHECK_INPUT(s == 0 || size.budget < sizes[s - 1].budget, where, ": size ", size.name,
                         " has no smaller budget than ", sizes[s - 1].name,
                         ": nothing lies between them");
    if (size.budget == 1.0 && size.widths == full_widths(config)) continue;
    if (first == nullptr) first = &size;
    NESTLING_CHECK_INPUT(same_target(size.target, first->target), where, ": size ", first->name,
                         " was given in ", target_text(first->target), ", size ", size.name, " in ",
                         target_text(size.target),
                         ": a budget between sizes needs one kind of cost");
  }
  return first != nullptr ? first->target : sizes.front().target;
}

// The sizes there are, and what else can be asked for.
std::string known(const std::vector<Size>& sizes, const RouterBlob& router) {
  std::string text = "there are ";
  for (const Size& s : sizes) text += (&s == sizes.data() ? "" : ", ") + s.name;
  if (router.json.empty()) return text + ", and no router to ask for another";
  return text + str(", or any budget from ", 100 * sizes.back().budget, "% to ",
                    100 * sizes.front().budget, "%, as 65% or absolute");
}

Feasible nearest(const RecordedRouter& recorded, const SizeBudget& budget, const Probabilities& p) {
  const double dead_zone = recorded.router.options().dead_zone;
  Feasible near = nearest_feasible(*recorded.space, budget, dead_zone, p);
  if (near.found || dead_zone >= kAskedTolerance) return near;
  return nearest_feasible(*recorded.space, budget, kAskedTolerance, p);
}

}  // namespace

Size asked_size(const ModelConfig& config, const std::vector<Size>& sizes, const RouterBlob& router,
                const std::string& text, const std::string& where) {
  const std::optional<WrittenWidth> asked = read_width(text);
  NESTLING_CHECK_INPUT(asked && !router.json.empty(), where, ": no size '", text, "'; ",
                       known(sizes, router));
  const CostTarget target = common_target(config, sizes, where);
  const CostFunction cost(config, target);
  const double whole = cost(expected(full_widths(config)));
  const double share = asked->percent ? asked->value / 100 : asked->value / whole;
  std::vector<double> budgets;
  for (const Size& s : sizes) {
    if (std::abs(share / s.budget - 1) <= kSameBudget) return s;
    budgets.push_back(s.budget);
  }
  NESTLING_CHECK_INPUT(share < budgets.front() && share > budgets.back(), where, ": size '", text,
                       "' is ", 100 * share, "% of the parent's ", target_text(target),
                       "; the sizes reach from ", 100 * budgets.back(), "% (", sizes.back().name,
                       ", ", budgets.back() * whole, ") to ", 100 * budgets.front(), "% (",
                       sizes.front().name, ", ", budgets.front() * whole, ")");
  const RecordedRouter recorded =
      recorded_router(config, std::ssize(sizes), router, where + ": /router");
  const Probabilities p = recorded.router.preferences(interpolated_input(budgets, share));
  const Feasible found =
      nearest(recorded, {.cost = &cost, .allowed = share * whole, .kind = target.kind}, p);
  NESTLING_CHECK_INPUT(found.found, where, ": size '", text, "': no combination of choices costs ",
                       share * whole, " ", target_text(target), " within ", 100 * kAskedTolerance,
                       is_limit(target.kind) ? "% below" : "%", "; the nearest cost ",
                       found.nearest_below, " and ", found.nearest_above);
  return {.name = text,
          .target = target,
          .budget = share,
          .widths = widths_of(*recorded.space, found.selection),
          .trained = false};
}

}  // namespace nestling
