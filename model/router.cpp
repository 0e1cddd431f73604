#include "model/router.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/rng.h"

namespace nestling {

namespace {

constexpr double kSlope = 0.1;    // of the leaky ReLU below zero
constexpr double kAnchor = 10.0;  // weight of the full size's distance from choice 0
// Combinations looked at one by one; a larger space needs another search.
constexpr int64_t kMostCombinations = int64_t{1} << 20;

double leaky(double x) {
  return x > 0 ? x : kSlope * x;
}

std::vector<double> softmax(const std::vector<double>& z, double tau) {
  const double top = *std::max_element(z.begin(), z.end());
  std::vector<double> p(z.size());
  double sum = 0;
  for (size_t i = 0; i < z.size(); ++i) sum += p[i] = std::exp((z[i] - top) / tau);
  for (double& x : p) x /= sum;
  return p;
}

// y = W x in double, W [rows, cols] f32.
std::vector<double> product(ConstView w, const std::vector<double>& x) {
  std::vector<double> y(static_cast<size_t>(w.dim(0)), 0.0);
  const auto* row = w.ptr<float>();
  for (double& sum : y) {
    for (const double v : x) sum += static_cast<double>(*row++) * v;
  }
  return y;
}

// dW += dy x^T.
void add_outer(View dw, const std::vector<double>& dy, const std::vector<double>& x) {
  auto* row = dw.ptr<float>();
  for (const double d : dy)
    for (const double v : x) *row++ += static_cast<float>(d * v);
}

Tensor normal(int64_t rows, int64_t cols, double std, Rng& rng) {
  Tensor t(Device::kCpu, DType::kF32, {rows, cols});
  for (int64_t i = 0; i < t.size(); ++i) t.ptr<float>()[i] = static_cast<float>(std * rng.normal());
  return t;
}

}  // namespace

Router::Router(const ElasticSpace& space, int64_t sizes, const RouterOptions& options,
               uint64_t seed)
    : space_(&space), sizes_(sizes), options_(options) {
  for (size_t a = 0; a < space.axes.size(); ++a) {
    Rng rng(seed, a);
    const auto choices = std::ssize(space.axes[a].widths);
    mlps_.push_back({.first = normal(options.hidden, sizes, options.init_std, rng),
                     .second = normal(choices, options.hidden, options.init_std, rng),
                     .dfirst = Tensor(Device::kCpu, DType::kF32, {options.hidden, sizes}),
                     .dsecond = Tensor(Device::kCpu, DType::kF32, {choices, options.hidden})});
  }
}

RouterDraw Router::draw(const std::vector<double>& u, double progress, const Noise* noise) const {
  NESTLING_CHECK(std::ssize(u) == sizes_, "a router of ", sizes_, " sizes asked with ", u.size());
  RouterDraw d{
      .input = u,
      .soft = {},
      .used = {},
      .tau = options_.tau_first * std::pow(options_.tau_last / options_.tau_first, progress),
      .scale = options_.scale_first + (options_.scale_last - options_.scale_first) * progress,
      .hidden = {}};
  // One stream a draw: the coin of the straight-through step first, then the axes in order.
  Rng rng(noise ? noise->seed : 0, noise ? (static_cast<uint64_t>(noise->step) << 20) +
                                               static_cast<uint64_t>(noise->micro_step)
                                         : 0);
  const bool hard = noise != nullptr && rng.uniform(0.0, 1.0) < options_.hard_share;
  for (const Mlp& mlp : mlps_) {
    d.hidden.push_back(product(mlp.first.view(), u));
    std::vector<double> active = d.hidden.back();
    for (double& x : active) x = leaky(x);
    std::vector<double> z = product(mlp.second.view(), active);
    for (double& x : z) {
      x *= d.scale;
      if (noise != nullptr) x -= std::log(-std::log(rng.uniform(1e-300, 1.0)));
    }
    d.soft.push_back(softmax(z, d.tau));
    d.used.push_back(d.soft.back());
    if (!hard) continue;
    std::vector<double>& used = d.used.back();
    const auto best = std::max_element(used.begin(), used.end()) - used.begin();
    std::fill(used.begin(), used.end(), 0.0);
    used[static_cast<size_t>(best)] = 1.0;
  }
  return d;
}

Probabilities Router::preferences(const std::vector<double>& u) const {
  NESTLING_CHECK(std::ssize(u) == sizes_, "a router of ", sizes_, " sizes asked with ", u.size());
  Probabilities p;
  for (const Mlp& mlp : mlps_) {
    std::vector<double> active = product(mlp.first.view(), u);
    for (double& x : active) x = leaky(x);
    p.push_back(softmax(product(mlp.second.view(), active), 1.0));
  }
  return p;
}

void Router::backward(const RouterDraw& d, const Probabilities& dused) {
  for (size_t a = 0; a < mlps_.size(); ++a) {
    const std::vector<double>& p = d.soft[a];
    double inner = 0;
    for (size_t i = 0; i < p.size(); ++i) inner += p[i] * dused[a][i];
    std::vector<double> dz(p.size());
    for (size_t i = 0; i < p.size(); ++i) dz[i] = p[i] * (dused[a][i] - inner) / d.tau * d.scale;
    std::vector<double> active = d.hidden[a];
    for (double& x : active) x = leaky(x);
    add_outer(mlps_[a].dsecond.view(), dz, active);
    std::vector<double> dh(active.size(), 0.0);
    const auto* w = mlps_[a].second.view().ptr<float>();
    for (const double g : dz)
      for (double& x : dh) x += static_cast<double>(*w++) * g;
    for (size_t i = 0; i < dh.size(); ++i)
      if (d.hidden[a][i] <= 0) dh[i] *= kSlope;
    add_outer(mlps_[a].dfirst.view(), dh, d.input);
  }
}

std::vector<Router::Parameter> Router::parameters() {
  std::vector<Parameter> list;
  for (size_t a = 0; a < mlps_.size(); ++a) {
    const AxisChoices& c = space_->axes[a];
    const std::string name =
        str("router/", axis_name(c.axis), c.layer >= 0 ? str(".", c.layer) : std::string());
    list.push_back({name + "/first", mlps_[a].first.view(), mlps_[a].dfirst.view()});
    list.push_back({name + "/second", mlps_[a].second.view(), mlps_[a].dsecond.view()});
  }
  return list;
}

void Router::zero_gradients() {
  for (Mlp& mlp : mlps_) {
    fill_zero(mlp.dfirst.view());
    fill_zero(mlp.dsecond.view());
  }
}

BudgetLoss budget_loss(const ElasticSpace& space, const SizeBudget& budget, double dead_zone,
                       const Probabilities& p, double weight, Probabilities& dp) {
  BudgetLoss result;
  ExpectedWidths gradient;
  result.cost = (*budget.cost)(expected_widths(space, p), &gradient);
  const double off = result.cost / budget.allowed - 1.0;
  if (budget.full || std::abs(off) > dead_zone) {
    result.loss = std::abs(off);
    Probabilities by_cost = p;
    for (auto& axis : by_cost) std::fill(axis.begin(), axis.end(), 0.0);
    expected_widths_backward(space, gradient, by_cost);
    const double slope = weight * (off > 0 ? 1.0 : -1.0) / budget.allowed;
    for (size_t a = 0; a < p.size(); ++a)
      for (size_t i = 0; i < p[a].size(); ++i) dp[a][i] += slope * by_cost[a][i];
  }
  for (size_t a = 0; budget.full && a < p.size(); ++a) {
    const auto choices = static_cast<double>(p[a].size());
    for (size_t i = 0; i < p[a].size(); ++i) {
      const double miss = p[a][i] - (i == 0 ? 1.0 : 0.0);
      result.loss += kAnchor * miss * miss / choices;
      dp[a][i] += weight * kAnchor * 2.0 * miss / choices;
    }
  }
  return result;
}

std::vector<double> interpolated_input(const std::vector<double>& costs, double cost) {
  std::vector<double> u(costs.size(), 0.0);
  size_t below = 0;
  while (below < costs.size() && costs[below] > cost) ++below;
  if (below == 0 || below == costs.size()) {
    u[below == 0 ? 0 : costs.size() - 1] = 1.0;
    return u;
  }
  const double share = (cost - costs[below]) / (costs[below - 1] - costs[below]);
  u[below - 1] = share;
  u[below] = 1.0 - share;
  return u;
}

Feasible nearest_feasible(const ElasticSpace& space, const SizeBudget& budget, double tolerance,
                          const Probabilities& p) {
  const double allowed = budget.allowed;
  const double most = is_limit(budget.kind) ? 0 : tolerance;
  int64_t combinations = 1;
  for (const AxisChoices& c : space.axes) {
    combinations *= std::ssize(c.widths);
    NESTLING_CHECK_INPUT(combinations <= kMostCombinations, "choices: more than ",
                         kMostCombinations, " combinations of widths");
  }
  Feasible best;
  double best_log = 0;
  Selection pick(space.axes.size(), 0);
  for (int64_t n = 0; n < combinations; ++n) {
    // The last axis runs fastest, so that of equals the one with lower indices comes first.
    int64_t rest = n;
    double log_p = 0;
    for (size_t a = space.axes.size(); a-- > 0;) {
      const auto choices = std::ssize(space.axes[a].widths);
      pick[a] = rest % choices;
      rest /= choices;
      log_p += std::log(std::max(p[a][static_cast<size_t>(pick[a])], 1e-300));
    }
    const double c = (*budget.cost)(expected(widths_of(space, pick)));
    if (c <= allowed) best.nearest_below = std::max(best.nearest_below, c);
    if (c >= allowed && (best.nearest_above == 0 || c < best.nearest_above)) best.nearest_above = c;
    const double off = c / allowed - 1.0;
    if (off < -tolerance || off > most) continue;
    if (best.found && log_p <= best_log) continue;
    best.found = true;
    best.selection = pick;
    best.cost = c;
    best_log = log_p;
  }
  return best;
}

}  // namespace nestling
