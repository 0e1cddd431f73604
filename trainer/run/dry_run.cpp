#include "trainer/run/dry_run.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/tokenizer.h"
#include "model/cost.h"
#include "model/order.h"
#include "model/quantize.h"
#include "runtime/model_card.h"
#include "runtime/parent.h"
#include "trainer/calibration.h"
#include "trainer/distill_step.h"
#include "trainer/run/qad.h"
#include "trainer/train_step.h"

namespace nestling {

namespace {

constexpr std::string_view kCollectives[] = {"all_reduce", "reduce_scatter", "all_gather",
                                             "all_to_all", "broadcast"};

// A rank's share of a global batch: token ids that nobody reads, a segment a sequence.
std::vector<Batch> shapes_of(int64_t sequences, int64_t micro_batch, int64_t seq_len) {
  std::vector<Batch> batches;
  for (int64_t left = sequences; left > 0; left -= micro_batch) {
    Batch& b = batches.emplace_back();
    b.sequences = std::min(micro_batch, left);
    b.seq_len = seq_len;
    b.tokens.resize(static_cast<size_t>(b.sequences * seq_len));
    b.targets = b.tokens;
    for (int64_t s = 0; s <= b.sequences; ++s)
      b.cu_seqlens.push_back(static_cast<int32_t>(s * seq_len));
    b.counted_targets = b.sequences * seq_len;
  }
  return batches;
}

struct Elastic {
  const RunConfig& config;
  const ElasticSpace& space;
  int ranks;
};

DryStep dry_step(const Elastic& of, RouterTraining& router, const PhaseConfig& phase,
                 const std::vector<double>& sampling, const StudentStart& start = {}) {
  Context ctx(Device::kNull);
  const auto comm = make_null_comm(0, of.ranks);
  Weights teacher(of.space.config, Device::kNull,
                  {.compute = teacher_precision(of.config),
                   .teacher = true,
                   .layers_shared_by = layers_shared_by(of.config, *comm)});
  DistillStep step(of.space, of.config, teacher, router, ctx, *comm, teacher_masters(of.config),
                   start);
  const std::vector<Batch> batches = shapes_of(phase.global_batch_tokens / phase.seq_len / of.ranks,
                                               micro_batch_of(of.config, phase), phase.seq_len);
  ctx.reset_work();
  step.run(batches, sampling, {});
  return {.phase = phase.name,
          .mode = start.quantization ? "codes"
                  : router.frozen()  ? "slice"
                                     : "mask",
          .size = {},
          .drawn = true,
          .micro_batches = std::ssize(batches),
          .sequences = batches.front().sequences,
          .seq_len = phase.seq_len,
          .work = ctx.work(),
          .total = ctx.total_work(),
          .pools = step.memory()};
}

std::string mib(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", static_cast<double>(bytes) / (1 << 20));
  return text;
}

int64_t pool(const std::vector<MemoryPool>& pools, const std::string& name) {
  for (const MemoryPool& p : pools)
    if (p.name == name) return p.bytes;
  return 0;
}

std::string line(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string collectives_text(const DryStep& s) {
  std::string text;
  for (const std::string_view name : kCollectives) {
    const auto at = s.work.find(name);
    if (at == s.work.end()) continue;
    text += str(text.empty() ? "" : ", ", name, " ", at->second.calls, " times, ",
                mib(static_cast<int64_t>(at->second.bytes)), " MiB sent");
  }
  return text.empty() ? "none" : text;
}

}  // namespace

bool is_collective(std::string_view op) {
  return std::ranges::find(kCollectives, op) != std::end(kCollectives);
}

std::vector<MemoryPool> DryRun::largest() const {
  std::vector<MemoryPool> most = steps.front().pools;
  for (const DryStep& s : steps)
    for (size_t i = 0; i < most.size(); ++i)
      most[i].bytes = std::max(most[i].bytes, s.pools[i].bytes);
  return most;
}

DryRun dry_run(const RunConfig& config, int ranks) {
  check_ranks(config, ranks);
  const ModelConfig model = Parent(config.parent, "parent").architecture();
  const ElasticSpace space = make_space(model, written_choices(config.elastic.choices),
                                        config.elastic.multiple_of, identity_order(model).depth);
  RouterTraining learning(space, config), frozen(space, config);
  frozen.freeze_evenly();
  DryRun run{.model = model, .ranks = ranks, .sizes = {}, .steps = {}};
  run.unpublished = unpublished_widths(space);
  const auto count = config.elastic.sizes.size();
  for (size_t s = 0; s < count; ++s) {
    const Widths widths = frozen.widths(static_cast<int64_t>(s));
    const ParameterCost cost = parameter_cost(model, widths);
    run.sizes.push_back({.name = config.elastic.sizes[s].name,
                         .widths = widths_text(model, widths),
                         .parameters = cost.total,
                         .active = cost.active});
  }
  const auto each_size = [&](const RunConfig& c, const PhaseConfig& phase,
                             const StudentStart& start) {
    if (c.distill.sizes_per_micro_batch > 1)
      run.steps.push_back(dry_step({.config = c, .space = space, .ranks = ranks}, frozen, phase,
                                   sampling_weights(phase, config.elastic.sizes), start));
    for (size_t s = 0; s < count; ++s) {
      std::vector<double> alone(count, 0.0);
      alone[s] = 1.0;
      run.steps.push_back(
          dry_step({.config = c, .space = space, .ranks = ranks}, frozen, phase, alone, start));
      run.steps.back().size = config.elastic.sizes[s].name;
      run.steps.back().drawn = false;
    }
  };
  for (const PhaseConfig& phase : config.curriculum) {
    run.steps.push_back(dry_step({.config = config, .space = space, .ranks = ranks}, learning,
                                 phase, sampling_weights(phase, config.elastic.sizes)));
    each_size(config, phase, {});
  }
  if (config.qad.format.empty()) return run;
  const WeightFormat format = parse_weight_format(config.qad.format, "qad.format");
  check_quantizable(space, format, "qad.format");
  const RunConfig qad = qad_run(config);
  each_size(qad, qad.curriculum.front(),
            {.masters = nullptr, .quantization = unit_scales(model, format)});
  return run;
}

DryRun dry_run(const PretrainConfig& config, int ranks) {
  check_shared_batch("", config.global_batch_tokens, config.seq_len, ranks);
  const ModelConfig model =
      config.init.empty()
          ? model_config_of(config.model, open_tokenizer(config.tokenizer).vocab_size())
          : Parent(config.init, "init").architecture();
  Context ctx(Device::kNull);
  const auto comm = make_null_comm(0, ranks);
  TrainStep step(model, config, ctx, *comm);
  const std::vector<Batch> batches = shapes_of(config.global_batch_tokens / config.seq_len / ranks,
                                               config.micro_batch, config.seq_len);
  ctx.reset_work();
  step.run(batches, 0.0, 1);
  const ParameterCost cost = parameter_cost(model);
  DryRun run{.model = model, .ranks = ranks, .sizes = {}, .steps = {}};
  run.sizes.push_back({.name = config.name,
                       .widths = widths_text(model, full_widths(model)),
                       .parameters = cost.total,
                       .active = cost.active});
  run.steps.push_back({.phase = config.name,
                       .mode = "pretrain",
                       .size = {},
                       .micro_batches = std::ssize(batches),
                       .sequences = batches.front().sequences,
                       .seq_len = config.seq_len,
                       .work = ctx.work(),
                       .total = ctx.total_work(),
                       .pools = step.memory()});
  return run;
}

DryRun dry_run_importance(const RunConfig& config, int ranks) {
  check_ranks(config, ranks);
  const ModelConfig model = Parent(config.parent, "parent").architecture();
  const CalibrationOptions options = calibration_options(config, model);
  const int64_t seq_len = config.data.calibration.seq_len;
  Context ctx(Device::kNull);
  const auto comm = make_null_comm(0, ranks);
  Weights parent(model, Device::kNull,
                 {.compute = teacher_precision(config),
                  .teacher = true,
                  .layers_shared_by = layers_shared_by(config, *comm)});
  Arena arena(Device::kNull);
  run_importance(
      ctx, arena, model, parent.params(),
      [&](int64_t, int64_t count) {
        return shapes_of(count / ranks, count / ranks, seq_len).front();
      },
      options, *comm);
  const ParameterCost cost = parameter_cost(model);
  const Weights::Bytes bytes = parent.allocated();
  const int64_t step = options.micro_batch * ranks;
  return {.model = model,
          .ranks = ranks,
          .sizes = {{.name = "parent",
                     .widths = widths_text(model, full_widths(model)),
                     .parameters = cost.total,
                     .active = cost.active}},
          .steps = {{.phase = "calibration",
                     .mode = "importance",
                     .size = {},
                     .micro_batches = (options.samples + step - 1) / step,
                     .sequences = std::min(options.micro_batch, options.samples / ranks),
                     .seq_len = seq_len,
                     .work = ctx.work(),
                     .total = ctx.total_work(),
                     .pools = {{"teacher weights", bytes.masters, Pool::kWeights},
                               {"teacher low copies", bytes.low, Pool::kWeights},
                               {"layer in hand", bytes.in_hand, Pool::kWeights},
                               {"activations", arena.peak_bytes(), Pool::kActivations},
                               {"scratch", ctx.scratch().peak_bytes(), Pool::kScratch}}}}};
}

std::string dry_run_text(const DryRun& run) {
  std::string out =
      str("dry run: nothing is computed, read or written; figures are of one rank of ", run.ranks,
          "\nlayers ", run.model.pattern, "\n\n");
  out += line("%-12s %14s %14s\n", "size", "parameters", "active");
  for (const DrySize& s : run.sizes)
    out += line("%-12s %14lld %14lld  ", s.name.c_str(), static_cast<long long>(s.parameters),
                static_cast<long long>(s.active)) +
           s.widths + "\n";
  if (!run.unpublished.empty())
    out += "not every size could be cut out by `nestling slice`: " + run.unpublished + "\n";
  out += line("\n%-12s %-8s %-10s %18s %12s %12s %16s %12s\n", "phase", "mode", "size",
              "batches of tokens", "GFLOP", "GB moved", "activations MiB", "scratch MiB");
  for (const DryStep& s : run.steps) {
    const Work& work = s.total;
    out += line("%-12s %-8s %-10s %18s %12.1f %12.1f %16s %12s\n", s.phase.c_str(), s.mode.c_str(),
                s.drawn ? "drawn" : s.size.c_str(),
                str(s.micro_batches, " x ", s.sequences, " x ", s.seq_len).c_str(),
                work.flops / 1e9, work.bytes / 1e9, mib(pool(s.pools, "activations")).c_str(),
                mib(pool(s.pools, "scratch")).c_str());
  }
  out += "\nmemory of a rank, MiB, each pool at its largest step\n";
  const std::vector<MemoryPool> most = run.largest();
  out += memory_table(most);
  out += "\ncollectives of the first step: " + collectives_text(run.steps.front()) + "\n";
  out +=
      "assumed: a sequence is one document; experts get equal loads (rows are tokens x top_k "
      "whatever "
      "the loads);\nwidths of slices are the nearest to the budgets, every choice equally "
      "probable; "
      "scratch as the CPU's\nlayers, loss, attention and scan take it\n";
  return out;
}

std::string dry_run_json(const DryRun& run) {
  Json sizes = Json::array(), steps = Json::array(), memory = Json::object();
  for (const DrySize& s : run.sizes)
    sizes.push_back({{"name", s.name},
                     {"params_total", s.parameters},
                     {"params_active", s.active},
                     {"widths", s.widths}});
  for (const DryStep& s : run.steps) {
    Json work = Json::object(), pools = Json::object();
    for (const auto& [op, one] : s.work)
      work[op] = {{"flops", one.flops}, {"bytes", one.bytes}, {"calls", one.calls}};
    for (const MemoryPool& p : s.pools) pools[pool_key(p)] = p.bytes;
    steps.push_back({{"phase", s.phase},
                     {"mode", s.mode},
                     {"size", s.size},
                     {"micro_batches", s.micro_batches},
                     {"sequences", s.sequences},
                     {"seq_len", s.seq_len},
                     {"flops", s.total.flops},
                     {"bytes", s.total.bytes},
                     {"work", work},
                     {"memory", pools}});
  }
  for (const MemoryPool& p : run.largest()) memory[pool_key(p)] = p.bytes;
  const Json all = {{"ranks", run.ranks}, {"sizes", sizes}, {"steps", steps}, {"memory", memory}};
  return dump_json(all, -1);
}

}  // namespace nestling
