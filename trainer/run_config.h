// run_config.h - the configuration of a whole elastic run (`nestling run`), built as config.h says.
#pragma once
#include "model/choices.h"
#include "model/cost.h"
#include "trainer/config.h"
#include "trainer/config_value.h"

namespace nestling {

struct CalibrationConfig {
  int64_t samples = 1024;
  int64_t seq_len = 8192;
  int64_t depth_samples = 8;
};

struct RunDataConfig {
  std::vector<SourceConfig> train;
  std::vector<TextConfig> validation;
  int64_t validation_tokens = 16384;
  CalibrationConfig calibration;
};

struct ChoicesConfig {  // a list of widths an axis; empty: the parent's alone
  Texts hidden, mamba_heads, mamba_channels, state, query_heads, ffn, experts, expert_ffn,
      shared_ffn, layers;
};

struct SizeConfig {
  std::string name;
  Terms target;  // full, or one of active_params, total_params, memory, latency_ms with their terms
};

struct ElasticConfig {
  int64_t multiple_of = kBlock;
  ChoicesConfig choices;
  std::vector<SizeConfig> sizes;
};

struct FreezeConfig {
  int64_t agree_steps = 200;
  double min_prob = 0.9;
  int64_t at_tokens = 0;  // 0: only by agreement
};

struct RouterConfig {
  int64_t hidden = 256;
  double lr = 1e-2;
  Numbers tau = {1.0, 0.05};
  Numbers logit_scale = {1.0, 10.0};
  int64_t schedule_tokens = 0;  // 0: the whole curriculum
  double loss_weight = 1.0;
  double dead_zone = 0.02;
  double hard_share = 0.004;
  FreezeConfig freeze;
};

struct PhaseConfig {
  std::string name;
  int64_t seq_len = 512;
  int64_t tokens = 0;
  Terms sampling = {{.name = "uniform", .value = ""}};
  int64_t global_batch_tokens = 0;
  int64_t micro_batch = 0;  // 0: parallel.micro_batch
};

struct DistillConfig {
  std::string loss = "forward_kl";
  double temperature = 1.0;
  double ce_weight = 0.0;
  int64_t sizes_per_micro_batch = 1;
};

struct QadConfig {      // of the stage after training (trainer/run/qad.h)
  std::string format;   // fp8 or nvfp4; empty: no such stage
  int64_t tokens = 0;   // more than none where there is a format
  int64_t seq_len = 0;  // 0: of the curriculum's last phase, as the next two
  int64_t global_batch_tokens = 0;
  int64_t micro_batch = 0;
  Terms sampling = {{.name = "uniform", .value = ""}};
  double lr = 1e-5;
};

struct TeacherConfig {
  std::string precision;  // of its products; empty: precision.compute
};

struct ParallelConfig {  // data parallel is what is left
  int64_t tensor = 1, expert = 1, context = 1;
  int64_t micro_batch = 1;
  std::string recompute = "none";   // none or layer
  std::string shard = "optimizer";  // optimizer or layers
};

struct EvaluationConfig {
  int64_t problems = 1024;
  int64_t batch = 128;           // problems completed at once
  std::vector<TextConfig> text;  // perplexity and KL; empty: the validation sources
  int64_t tokens = 32768;
  int64_t seq_len = 512;
};

struct RunConfig {
  std::string name;
  std::string output = "runs";
  std::string parent;
  RunDataConfig data;
  ElasticConfig elastic;
  RouterConfig router;
  std::vector<PhaseConfig> curriculum;
  QadConfig qad;
  DistillConfig distill;
  TeacherConfig teacher;
  OptimizerConfig optimizer;
  ParallelConfig parallel;
  EvaluationConfig evaluation;
  PrecisionConfig precision;
  std::string store = "bf16";
  CheckpointConfig checkpoint;
  LogConfig log;
  std::string device = "cpu";
  int64_t threads = 0;
  std::string cpu_isa;
  std::string cuda_isa;
  uint64_t seed = 42;
};

RunConfig read_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& overrides);
std::string dump_config(const RunConfig& config);
std::string run_config_reference();  // docs/config-run.md

// What the config's choices and targets mean for an architecture; kInput where they do not fit it.
std::vector<WrittenChoices> written_choices(const ChoicesConfig& choices);
struct WrittenTarget {
  CostTarget cost;
  double value = 0;      // share of the parent's cost, or absolute
  bool relative = true;  // which of the two
};
// A target of latency_ms reads its profile: kInput where that is missing, damaged or of other terms.
WrittenTarget parse_target(const SizeConfig& size);
// The file that a target of latency_ms is by; empty of another.
std::filesystem::path profile_of(const SizeConfig& size);
// A weight a size, from `uniform` or {name: weight}; sums to 1.
std::vector<double> sampling_weights(const PhaseConfig& phase,
                                     const std::vector<SizeConfig>& sizes);
// The run that the stage `qad` is: its one phase as the whole curriculum, at its rate without warm-up, under a seed of its
// own; in the folder `qad` of this run. Its format must not be empty.
RunConfig qad_run(const RunConfig& config);
int64_t total_tokens(const RunConfig& config);
DType teacher_precision(const RunConfig& config);  // of its products
DType teacher_activations(
    const RunConfig& config);  // bf16 where the student's are, and its products
// Throws kInput where `ranks` cannot share every phase's global batch equally.
void check_ranks(const RunConfig& config, int ranks);
// Sequences of one forward in a phase.
int64_t micro_batch_of(const RunConfig& config, const PhaseConfig& phase);

}  // namespace nestling
