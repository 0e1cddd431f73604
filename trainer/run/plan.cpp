#include "trainer/run/plan.h"

#include <algorithm>
#include <iterator>

namespace nestling {

namespace {

constexpr double kTera = 1e12, kGiga = 1e9;

// What only moves goes on from rank to rank (NCCL's ring), and so enters a node once, shared by the links of its
// devices; what is added up goes from each rank to each other, so that a sum has the order of the ranks (comm.h).
double link_seconds(std::string_view op, double sent, const ClusterConfig& c) {
  if (c.ranks() == 1) return 0;
  const double share = c.achieved.links.share * kGiga;
  const double within = share * c.links.within_gb_s, between = share * c.links.between_gb_s;
  if (c.nodes == 1) return sent / within;
  if (op == "all_gather" || op == "broadcast")
    return std::max(sent / within, sent / static_cast<double>(c.devices_per_node) / between);
  const double near =
      static_cast<double>(c.devices_per_node - 1) / static_cast<double>(c.ranks() - 1);
  return sent * near / within + sent * (1 - near) / between;
}

PlanStage stage_of(const DryStep& step, const ClusterConfig& cluster, DType products) {
  PlanStage stage{.name = step.phase, .mode = step.mode};
  stage.step = step_time(step.work, cluster, products);
  for (const auto& [op, work] : step.work) {
    stage.flops += work.flops;
    stage.calls += is_collective(op) ? 0.0 : static_cast<double>(work.calls);
    (is_collective(op) ? stage.sent : stage.bytes) += work.bytes;
  }
  return stage;
}

void add(PlanStage& sum, const PlanStage& one, double weight) {
  sum.step.products += weight * one.step.products;
  sum.step.memory += weight * one.step.memory;
  sum.step.links += weight * one.step.links;
  sum.flops += weight * one.flops;
  sum.bytes += weight * one.bytes;
  sum.sent += weight * one.sent;
  sum.calls += weight * one.calls;
}

int64_t steps_for(int64_t tokens, int64_t batch_tokens) {
  return (tokens + batch_tokens - 1) / batch_tokens;
}

// Walks the steps of a dry run in its order.
class StageReader {
 public:
  StageReader(const DryRun& run, const ClusterConfig& cluster, DType products)
      : at_(run.steps.begin()), cluster_(cluster), products_(products) {}

  PlanStage next() { return stage_of(*at_++, cluster_, products_); }
  // Of frozen choices: the step of sizes drawn where there is one, else the mean of the sizes.
  PlanStage frozen(const std::vector<double>& sampling) {
    const bool drawn = at_->drawn;
    PlanStage mean = drawn ? next() : PlanStage{.name = at_->phase, .mode = at_->mode};
    for (const double weight : sampling) add(mean, next(), drawn ? 0 : weight);
    return mean;
  }

 private:
  std::vector<DryStep>::const_iterator at_;
  const ClusterConfig& cluster_;
  DType products_;
};

PlanStage shaped(PlanStage stage, const PhaseConfig& phase, int64_t steps) {
  stage.steps = steps;
  stage.tokens = phase.global_batch_tokens;
  return stage;
}

std::vector<PlanStage> curriculum_stages(const RunConfig& c, StageReader reader) {
  std::vector<PlanStage> stages;
  int64_t before = 0;  // tokens of the phases before
  for (const PhaseConfig& phase : c.curriculum) {
    const int64_t steps = steps_for(phase.tokens, phase.global_batch_tokens);
    const int64_t left = std::max<int64_t>(0, c.router.freeze.at_tokens - before);
    const int64_t masked = c.router.freeze.at_tokens == 0
                               ? steps
                               : std::min(steps, steps_for(left, phase.global_batch_tokens));
    stages.push_back(shaped(reader.next(), phase, masked));
    stages.push_back(shaped(reader.frozen(sampling_weights(phase, c.elastic.sizes)), phase, steps));
    before += steps * phase.global_batch_tokens;
  }
  if (c.qad.format.empty()) return stages;
  const PhaseConfig qad = qad_run(c).curriculum.front();
  stages.push_back(shaped(reader.frozen(sampling_weights(qad, c.elastic.sizes)), qad,
                          steps_for(qad.tokens, qad.global_batch_tokens)));
  return stages;
}

// Steps under masks are steps of slices until choices freeze.
void add_times(PlanSetting& setting) {
  double slices = 0, masks = 0;
  for (size_t i = 0; i < setting.stages.size(); ++i) {
    const PlanStage& stage = setting.stages[i];
    const double steps = static_cast<double>(stage.steps), seconds = stage.step.seconds();
    if (stage.mode == "mask")
      masks += steps * (seconds - setting.stages[i + 1].step.seconds());
    else
      slices += steps * seconds;
  }
  setting.least_seconds = std::min(slices, slices + masks);
  setting.most_seconds = std::max(slices, slices + masks);
}

DType products_of(const RunConfig& c) {
  return teacher_precision(c) == DType::kF32 ? DType::kF32 : c.precision.compute_type();
}
DType products_of(const PretrainConfig& c) {
  return c.precision.compute_type();
}

// Memory and stages of a setting; what it ran is kept in `run`.
void walk(const RunConfig& c, const ClusterConfig& cluster, PlanSetting& setting, DryRun& run) {
  const int ranks = static_cast<int>(cluster.ranks());
  run = dry_run(c, ranks);
  const DryRun importance = dry_run_importance(c, ranks);
  setting.pools = run.largest();
  setting.importance = total_bytes(importance.largest());
  PlanStage first = StageReader(importance, cluster, products_of(c)).next();
  first.steps = 1;
  first.tokens = c.data.calibration.samples * c.data.calibration.seq_len;
  setting.stages = curriculum_stages(c, StageReader(run, cluster, products_of(c)));
  setting.stages.insert(setting.stages.begin(), first);
}
void walk(const PretrainConfig& c, const ClusterConfig& cluster, PlanSetting& setting,
          DryRun& run) {
  run = dry_run(c, static_cast<int>(cluster.ranks()));
  setting.pools = run.largest();
  setting.stages = {StageReader(run, cluster, products_of(c)).next()};
  setting.stages.front().steps = steps_for(c.tokens, c.global_batch_tokens);
  setting.stages.front().tokens = c.global_batch_tokens;
}

struct MemoryKeys {
  std::string& recompute;
  std::string& shard;
};
MemoryKeys keys_of(RunConfig& c) {
  return {c.parallel.recompute, c.parallel.shard};
}
MemoryKeys keys_of(PretrainConfig& c) {
  return {c.recompute, c.shard};
}
template <class Config>
Plan plan_of(Config config, const ClusterConfig& cluster) {
  const MemoryKeys keys = keys_of(config);
  const std::string recompute = keys.recompute, shard = keys.shard;
  Plan plan{.cluster = cluster,
            .model = {},
            .sizes = {},
            .products = products_of(config),
            .settings = {}};
  for (const char* each_shard : {"optimizer", "layers"})
    for (const char* each_recompute : {"none", "layer"}) {
      PlanSetting& setting =
          plan.settings.emplace_back(PlanSetting{.recompute = each_recompute, .shard = each_shard});
      setting.own = recompute == each_recompute && shard == each_shard;
      keys.recompute = each_recompute;
      keys.shard = each_shard;
      DryRun run;
      walk(config, cluster, setting, run);
      setting.fits = static_cast<double>(setting.bytes()) <= cluster.usable_bytes();
      add_times(setting);
      plan.model = run.model;
      plan.sizes = run.sizes;
    }
  return plan;
}

}  // namespace

StepTime step_time(const std::map<std::string, Work, std::less<>>& work,
                   const ClusterConfig& cluster, DType products) {
  const double peak =
      products == DType::kBF16 ? cluster.device.bf16_tflops : cluster.device.fp32_tflops;
  const double flops = cluster.achieved.products.share * peak * kTera;
  const double bytes = cluster.achieved.memory.share * cluster.device.memory_gb_s * kGiga;
  StepTime time;
  for (const auto& [op, one] : work) {
    if (is_collective(op)) {
      time.links += link_seconds(op, one.bytes, cluster);
      continue;
    }
    const double computing = one.flops / flops, moving = one.bytes / bytes;
    (computing > moving ? time.products : time.memory) += std::max(computing, moving);
  }
  return time;
}

const PlanSetting& Plan::own() const {
  const auto at = std::ranges::find_if(settings, [](const PlanSetting& s) { return s.own; });
  NESTLING_CHECK(at != settings.end(), "a plan without the config's own setting");
  return *at;
}

Plan plan_run(const RunConfig& config, const ClusterConfig& cluster) {
  return plan_of(config, cluster);
}

Plan plan_run(const PretrainConfig& config, const ClusterConfig& cluster) {
  return plan_of(config, cluster);
}

}  // namespace nestling
