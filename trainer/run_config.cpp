#include "trainer/run_config.h"

#include <algorithm>

#include "runtime/latency_table.h"
#include "trainer/config_visitors.h"
#include "trainer/run_config_fields.h"

namespace nestling {
namespace {

void check_phase(const PhaseConfig& phase, const RunConfig& c, const std::string& name) {
  const std::string where = str(name, ": curriculum '", phase.name, "'");
  NESTLING_CHECK_INPUT(phase.global_batch_tokens % phase.seq_len == 0, where,
                       ": global_batch_tokens ", phase.global_batch_tokens,
                       " is not a multiple of seq_len ", phase.seq_len);
  const std::vector<double> weights = sampling_weights(phase, c.elastic.sizes);
  const auto drawn = std::count_if(weights.begin(), weights.end(), [](double w) { return w > 0; });
  NESTLING_CHECK_INPUT(c.distill.sizes_per_micro_batch == std::ssize(weights) ||
                           c.distill.sizes_per_micro_batch <= drawn,
                       where, ": sampling has ", drawn,
                       " sizes, distill.sizes_per_micro_batch draws ",
                       c.distill.sizes_per_micro_batch, " of them");
}

// A stage that is not there has no settings.
void check_no_qad(const QadConfig& q, const std::string& name) {
  const QadConfig none;
  const bool uniform = q.sampling.size() == 1 && q.sampling[0].name == none.sampling[0].name;
  NESTLING_CHECK_INPUT(q.seq_len == none.seq_len && q.micro_batch == none.micro_batch &&
                           q.global_batch_tokens == none.global_batch_tokens && q.lr == none.lr &&
                           uniform,
                       name, ": qad has settings and no format");
}

// What several fields must agree on; single fields were checked by their rules.
void check_together(const RunConfig& c, const std::string& name) {
  for (size_t i = 0; i < c.elastic.sizes.size(); ++i) {
    const SizeConfig& size = c.elastic.sizes[i];
    const bool full = size.target.size() == 1 && size.target[0].name == "full";
    NESTLING_CHECK_INPUT(full == (i == 0), name, ": elastic.sizes.", i, " '", size.name,
                         "': the first size, and it alone, has target: full");
    parse_target(size);
    for (size_t k = 0; k < i; ++k)
      NESTLING_CHECK_INPUT(c.elastic.sizes[k].name != size.name, name, ": two sizes are named '",
                           size.name, "'");
  }
  NESTLING_CHECK_INPUT(c.distill.sizes_per_micro_batch <= std::ssize(c.elastic.sizes), name,
                       ": distill.sizes_per_micro_batch ", c.distill.sizes_per_micro_batch,
                       " exceeds the ", c.elastic.sizes.size(), " sizes");
  for (const PhaseConfig& phase : c.curriculum) check_phase(phase, c, name);
  NESTLING_CHECK_INPUT(c.qad.format.empty() == (c.qad.tokens == 0), name, ": qad.format is '",
                       c.qad.format, "' and qad.tokens ", c.qad.tokens,
                       ": both are needed, or neither");
  if (c.qad.format.empty())
    check_no_qad(c.qad, name);
  else
    check_phase(qad_run(c).curriculum.front(), c, name);
  NESTLING_CHECK_INPUT(
      c.data.validation.empty() || c.data.validation_tokens >= c.evaluation.seq_len, name,
      ": data.validation_tokens ", c.data.validation_tokens,
      " is less than one sequence of evaluation.seq_len ", c.evaluation.seq_len);
  check_names(c.data.validation, name);
  NESTLING_CHECK_INPUT(c.optimizer.warmup_tokens <= total_tokens(c), name,
                       ": optimizer.warmup_tokens ", c.optimizer.warmup_tokens, " exceeds the ",
                       total_tokens(c), " tokens of the curriculum");
}

double positive(const Term& term, const std::string& where) {
  const auto value = parse_number(term.value);
  NESTLING_CHECK_INPUT(value && *value > 0, where, ": ", term.name, ": '", term.value,
                       "' is no positive number");
  return *value;
}

int64_t whole(const Term& term, const std::string& where) {
  const auto value = parse_integer(term.value);
  NESTLING_CHECK_INPUT(value && *value > 0, where, ": ", term.name, ": '", term.value,
                       "' is no positive integer");
  return *value;
}

CostKind kind_of(const Term& first, const std::string& where) {
  if (first.name == "active_params") return CostKind::kActive;
  if (first.name == "total_params") return CostKind::kTotal;
  if (first.name == "memory") return CostKind::kMemory;
  if (first.name == "latency_ms") return CostKind::kLatency;
  throw Error(str(where, ": '", first.name,
                  "' is no target; there are full, active_params, total_params, memory and "
                  "latency_ms"),
              ErrorKind::kInput);
}

[[noreturn]] void no_term(const Term& term, const std::string& where, const char* of) {
  throw Error(str(where, ": '", term.name, "' is no term of ", of), ErrorKind::kInput);
}

MemoryTerms memory_terms(const Terms& target, const std::string& where) {
  MemoryTerms memory;
  for (size_t i = 1; i < target.size(); ++i) {
    const Term& term = target[i];
    if (term.name == "context")
      memory.context = whole(term, where);
    else if (term.name == "batch")
      memory.batch = whole(term, where);
    else if (term.name == "weight_bytes")
      memory.weight_bytes = positive(term, where);
    else
      no_term(term, where, "memory; there are context, batch and weight_bytes");
  }
  return memory;
}

// Device, context and batch are those that were measured; the config may say them too.
LatencyTerms latency_terms(const SizeConfig& size, const std::string& where) {
  const std::filesystem::path file = profile_of(size);
  NESTLING_CHECK_INPUT(!file.empty(), where,
                       ": latency_ms needs profile: FILE, a table that nestling profile made");
  const LatencyProfile profile = read_latency_profile(file);
  for (size_t i = 1; i < size.target.size(); ++i) {
    const Term& term = size.target[i];
    const auto measured = [&](bool same, const auto& value) {
      NESTLING_CHECK_INPUT(same, where, ": ", term.name, " ", term.value, ", ", file.string(),
                           " was measured at ", term.name, " ", value);
    };
    if (term.name == "device")
      measured(term.value == profile.device, profile.device);
    else if (term.name == "context")
      measured(whole(term, where) == profile.terms.context, profile.terms.context);
    else if (term.name == "batch")
      measured(whole(term, where) == profile.terms.batch, profile.terms.batch);
    else if (term.name != "profile")
      no_term(term, where, "latency_ms; there are profile, device, context and batch");
  }
  return profile.terms;
}

}  // namespace

RunConfig read_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& overrides) {
  YamlNode root = read_yaml(file);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  auto config = read_fields<RunConfig>(root, file.string());
  settle_precision(config.precision, config.device, file.string());
  check_cuda_isa(config.cuda_isa, config.device, file.string());
  check_together(config, file.string());
  return config;
}

std::string dump_config(const RunConfig& config) {
  return dump_fields(config);
}

std::string run_config_reference() {
  return reference_head("`nestling run`, `train`, `importance` and `verify-resume`", "run") +
         field_table(list_fields<RunConfig>());
}

std::vector<WrittenChoices> written_choices(const ChoicesConfig& c) {
  std::vector<WrittenChoices> all;
  const auto add = [&](Axis axis, const Texts& widths) {
    if (widths.empty()) return;
    WrittenChoices& choices = all.emplace_back();
    choices.axis = axis;
    for (const std::string& text : widths)
      choices.widths.push_back(parse_width(text, str("elastic.choices.", axis_name(axis))));
  };
  add(Axis::kHidden, c.hidden);
  add(Axis::kMambaHeads, c.mamba_heads);
  add(Axis::kMambaChannels, c.mamba_channels);
  add(Axis::kState, c.state);
  add(Axis::kQueryHeads, c.query_heads);
  add(Axis::kFfn, c.ffn);
  add(Axis::kExperts, c.experts);
  add(Axis::kExpertFfn, c.expert_ffn);
  add(Axis::kSharedFfn, c.shared_ffn);
  add(Axis::kLayers, c.layers);
  return all;
}

WrittenTarget parse_target(const SizeConfig& size) {
  const std::string where = str("elastic.sizes '", size.name, "': target");
  const Term& first = size.target.front();
  if (first.name == "full") return {.cost = {}, .value = 1.0, .relative = true};
  WrittenTarget target{.cost = {.kind = kind_of(first, where)}};
  const WrittenWidth width = parse_width(first.value, where);
  target.relative = width.percent;
  target.value = width.percent ? width.value / 100.0 : width.value;
  if (target.cost.kind == CostKind::kMemory)
    target.cost.memory = memory_terms(size.target, where);
  else if (target.cost.kind == CostKind::kLatency)
    target.cost.latency = latency_terms(size, where);
  else
    NESTLING_CHECK_INPUT(size.target.size() == 1, where, ": '", size.target[1].name,
                         "' belongs to a memory or a latency_ms target");
  return target;
}

std::filesystem::path profile_of(const SizeConfig& size) {
  if (size.target.front().name != "latency_ms") return {};
  for (const Term& term : size.target)
    if (term.name == "profile") return term.value;
  return {};
}

std::vector<double> sampling_weights(const PhaseConfig& phase,
                                     const std::vector<SizeConfig>& sizes) {
  const std::string where = str("curriculum '", phase.name, "': sampling");
  if (phase.sampling.size() == 1 && phase.sampling[0].value.empty()) {
    NESTLING_CHECK_INPUT(phase.sampling[0].name == "uniform", where, ": '", phase.sampling[0].name,
                         "' is neither uniform nor a weight a size");
    return std::vector<double>(sizes.size(), 1.0 / static_cast<double>(sizes.size()));
  }
  std::vector<double> weights(sizes.size(), 0.0);
  double sum = 0;
  for (const Term& term : phase.sampling) {
    const auto size = std::find_if(sizes.begin(), sizes.end(),
                                   [&](const SizeConfig& s) { return s.name == term.name; });
    NESTLING_CHECK_INPUT(size != sizes.end(), where, ": there is no size '", term.name, "'");
    double& weight = weights[static_cast<size_t>(size - sizes.begin())];
    weight = positive(term, where);
    sum += weight;
  }
  for (double& w : weights) w /= sum;
  return weights;
}

RunConfig qad_run(const RunConfig& c) {
  NESTLING_CHECK(!c.qad.format.empty(), "a stage without a format");
  const PhaseConfig& last = c.curriculum.back();
  const auto or_last = [](int64_t own, int64_t of_last) { return own > 0 ? own : of_last; };
  RunConfig run = c;
  run.name = "qad";
  run.output = std::filesystem::path(c.output) / c.name;
  run.curriculum = {
      {.name = "qad",
       .seq_len = or_last(c.qad.seq_len, last.seq_len),
       .tokens = c.qad.tokens,
       .sampling = c.qad.sampling,
       .global_batch_tokens = or_last(c.qad.global_batch_tokens, last.global_batch_tokens),
       .micro_batch = or_last(c.qad.micro_batch, last.micro_batch)}};
  run.optimizer.lr = c.qad.lr;
  run.optimizer.warmup_tokens = 0;
  run.seed = c.seed + c.curriculum.size();
  return run;
}

DType teacher_precision(const RunConfig& c) {
  const std::string& text = c.teacher.precision.empty() ? c.precision.compute : c.teacher.precision;
  return text == "bf16" ? DType::kBF16 : DType::kF32;
}

DType teacher_activations(const RunConfig& c) {
  return teacher_precision(c) == DType::kBF16 ? c.precision.activations_type() : DType::kF32;
}

void check_ranks(const RunConfig& config, int ranks) {
  std::vector<PhaseConfig> phases = config.curriculum;
  if (!config.qad.format.empty()) phases.push_back(qad_run(config).curriculum.front());
  for (const PhaseConfig& phase : phases)
    check_shared_batch(str("curriculum '", phase.name, "': "), phase.global_batch_tokens,
                       phase.seq_len, ranks);
}

int64_t micro_batch_of(const RunConfig& config, const PhaseConfig& phase) {
  return phase.micro_batch > 0 ? phase.micro_batch : config.parallel.micro_batch;
}

int64_t total_tokens(const RunConfig& config) {
  int64_t tokens = 0;
  for (const PhaseConfig& phase : config.curriculum) tokens += phase.tokens;
  return tokens;
}

}  // namespace nestling
