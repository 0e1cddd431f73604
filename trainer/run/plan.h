// plan.h - a run projected onto a cluster that is not here: does it fit, how long does it take, what does it cost.
//
// Counts        of one rank, by the dry run (dry_run.h), at as many ranks as the cluster has devices.
// Time          of a step: every operator takes the longer of its FLOPs at the achieved share of the peak of products
//               and its bytes at that of the memory's bandwidth; collectives take the bytes that a rank sends at that
//               of the links. Reductions send from each rank to each other, those in the node and then those to other
//               nodes; all else goes round in a ring, which enters a node once, over the links of all its devices.
//               Nothing overlaps, as nothing does in the code today. Products on codes count as bf16's.
// Stages        importance, the curriculum's phases and `qad`; of pretraining its steps. Where router.freeze leaves
//               open when masks end, a run takes between all steps as slices and the most under masks. A step of
//               slices is the mean over the sizes as they are drawn, or with several on one teacher forward those
//               that the first step draws.
// Left out      reading and tokenising text, validation, checkpoints, evaluation, the report; waits of ranks for each
//               other; the start of kernels and of collectives.
// Errors        kInput: what the dry run refuses; a batch that the ranks cannot share.
#pragma once
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "trainer/cluster.h"
#include "trainer/run/dry_run.h"

namespace nestling {

struct StepTime {  // seconds
  double products = 0, memory = 0, links = 0;
  double seconds() const { return products + memory + links; }
};
// `products`: kF32 or kBF16.
StepTime step_time(const std::map<std::string, Work, std::less<>>& work,
                   const ClusterConfig& cluster, DType products);

struct PlanStage {
  std::string name, mode;  // of DryStep
  int64_t steps = 0;       // at most in this mode
  int64_t tokens = 0;      // of a step, of all ranks
  StepTime step = {};
  double flops = 0, bytes = 0, sent = 0, calls = 0;  // of a rank and step; calls of operators
  double tokens_per_second() const { return static_cast<double>(tokens) / step.seconds(); }
};

struct PlanSetting {
  std::string recompute, shard;
  bool own = false;                    // the config's
  std::vector<MemoryPool> pools = {};  // of a rank, each at its largest training step
  int64_t importance = 0;  // bytes of a rank in that stage, to which recompute means nothing
  int64_t bytes() const { return std::max(total_bytes(pools), importance); }
  bool fits = false;
  std::vector<PlanStage> stages = {};
  double least_seconds = 0, most_seconds = 0;  // of the whole run
};

struct Plan {
  ClusterConfig cluster;
  ModelConfig model;
  std::vector<DrySize> sizes;
  DType products = DType::kBF16;
  std::vector<PlanSetting> settings;  // every one that the config may have
  const PlanSetting& own() const;
};

Plan plan_run(const RunConfig& config, const ClusterConfig& cluster);
Plan plan_run(const PretrainConfig& config, const ClusterConfig& cluster);
std::string plan_text(const Plan& plan);
std::string plan_json(const Plan& plan);  // one object on one line

}  // namespace nestling
