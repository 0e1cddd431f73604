#include "trainer/router_training.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/host_view.h"
#include "kernels/ops/adamw.h"
#include "runtime/latency_table.h"

namespace nestling {
namespace {

RouterOptions options_of(const RouterConfig& c) {
  return {.hidden = c.hidden,
          .tau_first = c.tau[0],
          .tau_last = c.tau[1],
          .scale_first = c.logit_scale[0],
          .scale_last = c.logit_scale[1],
          .hard_share = c.hard_share,
          .dead_zone = c.dead_zone};
}

int64_t best_choice(const std::vector<double>& p) {
  return std::max_element(p.begin(), p.end()) - p.begin();
}

Probabilities uniform(const ElasticSpace& space) {
  Probabilities p;
  for (const AxisChoices& c : space.axes)
    p.emplace_back(c.widths.size(), 1.0 / static_cast<double>(c.widths.size()));
  return p;
}

std::string budget_text(const SizeConfig& size, const SizeBudget& budget, const Feasible& found) {
  return str("elastic.sizes '", size.name, "': no combination of choices costs ", budget.allowed,
             is_limit(budget.kind) ? " or less," : "",
             " within router.dead_zone; the nearest cost ", found.nearest_below, " and ",
             found.nearest_above);
}

// Streams of the router's random numbers.
constexpr uint64_t kInitStream = 0x726f75746572;  // "router"

}  // namespace

RouterTraining::RouterTraining(const ElasticSpace& space, const RunConfig& config)
    : space_(space),
      config_(config),
      router_(space, std::ssize(config.elastic.sizes), options_of(config.router),
              config.seed ^ kInitStream) {
  const auto count = config.elastic.sizes.size();
  costs_.reserve(count);  // budgets point into it
  for (const SizeConfig& size : config.elastic.sizes) {
    const WrittenTarget target = parse_target(size);
    if (target.cost.kind == CostKind::kLatency)
      check_latency_profile(read_latency_profile(profile_of(size)), space,
                            str("elastic.sizes '", size.name, "': target"));
    costs_.emplace_back(space.config, target.cost);
    const double whole = costs_.back()(expected(full_widths(space.config)));
    const bool full = budgets_.empty();
    budgets_.push_back({.cost = &costs_.back(),
                        .allowed = target.relative ? target.value * whole : target.value,
                        .full = full,
                        .kind = target.cost.kind});
    if (full) continue;
    const Feasible found =
        nearest_feasible(space, budgets_.back(), config.router.dead_zone, uniform(space));
    NESTLING_CHECK_INPUT(found.found, budget_text(size, budgets_.back(), found));
  }
  for (const Router::Parameter& p : router_.parameters()) {
    m_.emplace_back(Device::kCpu, DType::kF32,
                    std::initializer_list<int64_t>{p.weight.dim(0), p.weight.dim(1)});
    v_.emplace_back(Device::kCpu, DType::kF32,
                    std::initializer_list<int64_t>{p.weight.dim(0), p.weight.dim(1)});
  }
  const auto choices = static_cast<int64_t>(count * space.axes.size());
  counters_ = Tensor(Device::kCpu, DType::kI32, {2 + choices});
  fill_zero(counters_.view());
  selections_.assign(count, Selection(space.axes.size(), 0));
}

double RouterTraining::progress(int64_t tokens) const {
  const int64_t whole =
      config_.router.schedule_tokens > 0 ? config_.router.schedule_tokens : total_tokens(config_);
  return std::min(1.0, static_cast<double>(tokens) / static_cast<double>(whole));
}

std::vector<double> RouterTraining::input(int64_t size) const {
  std::vector<double> u(budgets_.size(), 0.0);
  u[static_cast<size_t>(size)] = 1.0;
  return u;
}

RouterDraw RouterTraining::draw(int64_t size, const DrawKey& key) const {
  const Router::Noise noise{.seed = config_.seed + static_cast<uint64_t>(size) + 1,
                            .step = key.step,
                            .micro_step = key.micro_step};
  return router_.draw(input(size), progress(key.tokens), &noise);
}

RouterDraw RouterTraining::plain(int64_t size, int64_t tokens) const {
  return router_.draw(input(size), progress(tokens), nullptr);
}

BudgetLoss RouterTraining::backward(int64_t size, const RouterDraw& draw, Probabilities& dp,
                                    double weight) {
  const BudgetLoss loss = budget_loss(space_, budget(size), config_.router.dead_zone, draw.used,
                                      weight * config_.router.loss_weight, dp);
  router_.backward(draw, dp);
  return loss;
}

double RouterTraining::reduce_gradients(Context& ctx, Comm& comm) {
  double squares = 0;
  for (const Router::Parameter& p : router_.parameters()) {
    comm.all_reduce(ctx, seen_by(ctx, p.grad), Reduce::kSum);
    for (int64_t i = 0; i < p.grad.size(); ++i) {
      const double g = p.grad.ptr<float>()[i];
      squares += g * g;
    }
  }
  return std::sqrt(squares);
}

void RouterTraining::step(Context& ctx, int64_t update) {
  const std::vector<Router::Parameter> parameters = router_.parameters();
  std::vector<AdamWTensor> tensors;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Router::Parameter& p = parameters[i];
    tensors.push_back({.master = seen_by(ctx, p.weight),
                       .m = seen_by(ctx, m_[i].view()),
                       .v = seen_by(ctx, v_[i].view()),
                       .grad = seen_by(ctx, p.grad),
                       .lr = static_cast<float>(config_.router.lr),
                       .decay = 0.0f});
  }
  Context host(ctx.device() == Device::kCuda ? Device::kCpu : ctx.device());
  adamw_step(host, {.tensors = tensors,
                    .beta1 = static_cast<float>(config_.optimizer.beta1),
                    .beta2 = static_cast<float>(config_.optimizer.beta2),
                    .eps = static_cast<float>(config_.optimizer.eps),
                    .step = update});
}

double RouterTraining::probability(int64_t size, int64_t tokens) const {
  double least = 1;
  for (const auto& p : plain(size, tokens).soft)
    least = std::min(least, *std::max_element(p.begin(), p.end()));
  return least;
}

double RouterTraining::entropy(int64_t size, int64_t tokens) const {
  double sum = 0;
  const RouterDraw d = plain(size, tokens);
  for (const auto& axis : d.soft)
    for (const double p : axis) sum -= p > 0 ? p * std::log(p) : 0;
  return d.soft.empty() ? 0 : sum / static_cast<double>(d.soft.size());
}

bool RouterTraining::settle(int64_t tokens) {
  if (frozen()) return false;
  std::vector<Selection> now;
  double least = 1;
  for (int64_t s = 0; s < sizes(); ++s) {
    Selection& pick = now.emplace_back();
    for (const auto& p : plain(s, tokens).soft) pick.push_back(best_choice(p));
    least = std::min(least, probability(s, tokens));
  }
  int32_t& agreed = counters_.ptr<int32_t>()[1];
  agreed = now == selections_ && least >= config_.router.freeze.min_prob ? agreed + 1 : 0;
  store(now);
  const FreezeConfig& rule = config_.router.freeze;
  const bool forced = rule.at_tokens > 0 && tokens >= rule.at_tokens;
  if (agreed < rule.agree_steps && !forced) return false;
  freeze_now();
  return true;
}

void RouterTraining::freeze_now() {
  freeze([&](int64_t size) { return router_.preferences(input(size)); });
}

void RouterTraining::freeze_evenly() {
  freeze([&](int64_t) { return uniform(space_); });
}

void RouterTraining::freeze(const std::function<Probabilities(int64_t)>& probabilities) {
  std::vector<Selection> taken{Selection(space_.axes.size(), 0)};  // the parent's size is whole
  for (int64_t s = 1; s < sizes(); ++s) {
    const SizeBudget& b = budget(s);
    const Feasible found = nearest_feasible(space_, b, config_.router.dead_zone, probabilities(s));
    NESTLING_CHECK_INPUT(found.found,
                         budget_text(config_.elastic.sizes[static_cast<size_t>(s)], b, found));
    taken.push_back(found.selection);
  }
  store(taken);
  counters_.ptr<int32_t>()[0] = 1;
}

Widths RouterTraining::widths(int64_t size) const {
  return widths_of(space_, selections_[static_cast<size_t>(size)]);
}

void RouterTraining::store(const std::vector<Selection>& selections) {
  selections_ = selections;
  int32_t* to = counters_.ptr<int32_t>() + 2;
  for (const Selection& s : selections)
    for (const int64_t choice : s) *to++ = static_cast<int32_t>(choice);
}

std::vector<Selection> RouterTraining::stored_selections() const {
  std::vector<Selection> all(budgets_.size());
  const int32_t* from = counters_.ptr<int32_t>() + 2;
  for (Selection& s : all)
    for (size_t a = 0; a < space_.axes.size(); ++a) s.push_back(*from++);
  return all;
}

int64_t RouterTraining::allocated_bytes() const {
  int64_t weights = 0;
  for (const Tensor& m : m_) weights += m.allocated_bytes();
  return 4 * weights;
}

std::vector<NamedState> RouterTraining::state() {
  std::vector<NamedState> all;
  const std::vector<Router::Parameter> parameters = router_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    all.push_back({parameters[i].name, parameters[i].weight});
    all.push_back({parameters[i].name + "#m", m_[i].view()});
    all.push_back({parameters[i].name + "#v", v_[i].view()});
  }
  all.push_back({"router/choices", counters_.view()});
  return all;
}

}  // namespace nestling
