#include "trainer/run/elastic_run.h"

#include <algorithm>
#include <chrono>

#include "data/crc32c.h"
#include "kernels/comm/nccl.h"
#include "kernels/core/peaks.h"
#include "model/elastic_file.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "trainer/calibration.h"
#include "trainer/pin_machine.h"
#include "trainer/run/elastic_record.h"
#include "trainer/run/evaluate_run.h"
#include "trainer/run/report.h"
#include "trainer/run/score_file.h"
#include "trainer/run/step_log.h"
#include "trainer/schedule.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

RunSettings settings_of(const RunConfig& c) {
  return {.name = c.name,
          .output = c.output,
          .tokenizer = c.parent,
          .config = dump_config(c),
          .device = parse_device(c.device),
          .checkpoint = c.checkpoint,
          .tensorboard = c.log.tensorboard,
          .seed = c.seed};
}

// Before anything is read or written.
const RunConfig& checked(const RunConfig& config, const Comm& comm) {
  NESTLING_CHECK_INPUT(
      fs::is_directory(config.parent), "parent: ", config.parent,
      fs::exists(config.parent)
          ? ": a Hugging Face directory is needed; `nestling slice` makes one of an elastic .h5"
          : ": not found");
  check_ranks(config, comm.size());
  pin_machine(config);
  return config;
}

}  // namespace

ElasticRun::ElasticRun(const RunConfig& config, Comm& comm, ConfigChange change)
    : config_(checked(config, comm)),
      comm_(comm),
      run_(settings_of(config_), comm, change),
      validation_(config_, run_),
      curriculum_(config_),
      ctx_(parse_device(config_.device)),
      model_(read_parent_config(config_.parent)),
      teacher_(model_, ctx_.device(), {.compute = teacher_precision(config_), .teacher = true}) {
  check_evaluation_texts(config_, run_.tokenizer());
  std::filesystem::create_directories(run_.dir());
  import_weights(config_.parent, model_, teacher_);
  run_.input(kParentInput, digest_of_weights(config_.parent));
  run_.input("parent's config", digest_of_config(config_.parent));
}

namespace {

// What the scores are of, in one line. `inputs`: the run's, with those of its texts.
std::string score_origin(const RunConfig& c, const ModelConfig& model,
                         const std::map<std::string, std::string>& inputs) {
  std::string sources;
  for (const SourceConfig& s : c.data.train)
    sources += str(" ", s.path, " (", inputs.at("text " + s.path), ") *", s.weight);
  const CalibrationOptions how = calibration_options(c, model);
  return str(
      c.parent, " (", inputs.at(kParentInput), "), ", c.data.calibration.samples, " sequences of ",
      c.data.calibration.seq_len, " from", sources, ", seed ", c.seed, ", ",
      dtype_name(teacher_precision(c)),
      teacher_activations(c) == DType::kBF16 ? ", activations too" : "",
      how.head_channels == 0 ? ""
                             : str(", Mamba heads by their best ", how.head_channels, " channels"),
      how.depth_samples == 0 ? "" : str(", layers left out one by one on ", how.depth_samples));
}

}  // namespace

void ElasticRun::measure_importance() {
  const fs::path file = run_.dir() / "scores.json";
  const CalibrationConfig& c = config_.data.calibration;
  const auto start = Clock::now();
  Batches text = run_.batches(config_.data.train, c.seq_len, config_.seed);
  const std::string origin = score_origin(config_, model_, run_.inputs());
  scores_ = read_scores(file, origin);
  if (scores_) {
    run_.say(str("importance is measured already: ", file.string()));
    return;
  }
  CalibrationOptions options = calibration_options(config_, model_);
  options.between = [&] {
    stop_if_told(ctx_, comm_,
                 "stopped on a signal while importance was measured; the same command measures it "
                 "from the start");
  };
  Arena arena(ctx_.device());
  scores_ = run_importance(
      ctx_, arena, model_, teacher_.params(),
      [&](int64_t position, int64_t count) {
        return text.load(position, count, comm_.rank(), comm_.size());
      },
      options, comm_);
  run_.say(str("importance measured on ", c.samples * c.seq_len, " tokens in ",
               seconds_since(start), " s"));
  comm_.at_root([&] { write_scores(file, *scores_, origin); });
}

void ElasticRun::sort() {
  order_ = order_from_scores(model_, *scores_, (run_.dir() / "scores.json").string());
  apply_order(model_, order_, teacher_);
  space_ = make_space(model_, written_choices(config_.elastic.choices), config_.elastic.multiple_of,
                      order_.depth);
  router_.emplace(*space_, config_);
  step_.emplace(*space_, config_, teacher_, *router_, ctx_, comm_, teacher_masters(config_));
}

namespace {

// What indices of choices and places of units mean: another list of widths, or other scores, and the weights of a
// checkpoint are of other sizes.
int32_t meaning_of(const ElasticSpace& space, const Order& order) {
  std::string text;
  const auto add = [&](const auto& name, const std::vector<int64_t>& values) {
    text += str("\n", name);
    for (const int64_t v : values) text += str(" ", v);
  };
  for (const AxisChoices& axis : space.axes)
    add(str(axis_name(axis.axis), axis.layer), axis.widths);
  add("hidden", order.hidden);
  for (size_t l = 0; l < order.layers.size(); ++l)
    for (const auto& [axis, units] : order.layers[l]) add(str(axis_name(axis), l), units);
  add("depth", order.depth);
  return static_cast<int32_t>(crc32c(text));
}

}  // namespace

std::vector<NamedState> ElasticRun::state() {
  std::vector<NamedState> all = step_->state();
  all.push_back({"elastic/meaning", meaning_.view()});
  const std::vector<NamedState> router = router_->state();
  all.insert(all.end(), router.begin(), router.end());
  return all;
}

namespace {

std::string widths_text(const ElasticSpace& space, const Selection& selection) {
  std::string text;
  for (size_t a = 0; a < space.axes.size(); ++a)
    text += str(a > 0 ? ", " : "", axis_name(space.axes[a].axis), " ",
                space.axes[a].widths[static_cast<size_t>(selection[a])]);
  return text;
}

}  // namespace

void ElasticRun::log_choices(const char* what) {
  std::string text = what;
  for (int64_t s = 0; s < router_->sizes(); ++s)
    text += str("; ", config_.elastic.sizes[static_cast<size_t>(s)].name, ": ",
                widths_text(*space_, router_->selections()[static_cast<size_t>(s)]));
  run_.say(text);
  run_.log().write({.step = run_.at.step, .tokens = run_.at.tokens, .scalars = {}, .event = text});
}

void ElasticRun::one_step() {
  const auto start = Clock::now();
  ctx_.reset_work();
  const PlaceInCurriculum place = curriculum_.place(run_.at.step);
  const PhaseConfig& phase = config_.curriculum[place.phase];
  const int64_t sequences = phase.global_batch_tokens / phase.seq_len;
  const std::vector<Batch> batches =
      run_.load(phases_[place.phase], place.position, sequences, micro_batch_of(config_, phase));
  const int64_t after = run_.at.tokens + phase.global_batch_tokens;
  const double lr = learning_rate(config_.optimizer, after, curriculum_.tokens());
  step_->reserve(batches);
  run_.tell_memory(ctx_);
  const DistillResult result = step_->run(
      batches, sampling_weights(phase, config_.elastic.sizes),
      {.step = run_.at.step, .update = run_.at.updates + 1, .tokens = run_.at.tokens, .lr = lr});
  run_.at.step += 1;
  run_.at.tokens = after;
  run_.at.position = place.position + sequences;
  if (result.skipped) {
    run_.at.skipped += 1;
    run_.log().write(
        {.step = run_.at.step,
         .tokens = run_.at.tokens,
         .scalars = {},
         .event = str("step ", run_.at.step, " skipped: loss ", result.loss, ", budget loss ",
                      result.budget, ", gradient norm ", result.grad_norm, ", of the router ",
                      result.router_grad_norm, ", phase ", phase.name, ", sequences ",
                      place.position, " to ", run_.at.position - 1)});
  } else {
    run_.at.updates += 1;
  }
  if (run_.at.step % config_.log.every_steps == 0 || run_.at.step == curriculum_.steps()) {
    const StepCost cost{.seconds = seconds_since(start),
                        .flops = ctx_.total_work().flops,
                        .tokens = static_cast<double>(phase.global_batch_tokens),
                        .peak_gflops = peak_gflops_};
    run_.log().write(step_record(config_, *space_, *router_, result, run_.at, lr, cost));
    run_.log().progress(run_.at.step, run_.at.tokens, curriculum_.tokens(), result.loss,
                        cost.tokens / cost.seconds);
  }
  if (!result.skipped && router_->settle(run_.at.tokens)) {  // after the record: it ran under masks
    frozen_after_ = run_.at.step;
    log_choices("choices frozen, slices from here on");
  }
}

void ElasticRun::validate() {
  if (validation_.empty()) return;
  run_.log().write({.step = run_.at.step,
                    .tokens = run_.at.tokens,
                    .scalars = validation_.measure(*step_, ctx_, comm_),
                    .event = {}});
}

void ElasticRun::begin() {
  if (!scores_) measure_importance();
  sort();
  for (size_t p = 0; p < config_.curriculum.size(); ++p)
    phases_.push_back(
        run_.batches(config_.data.train, config_.curriculum[p].seq_len, config_.seed + p));
  constexpr double kPeakSeconds = 0.05;
  if (ctx_.device() == Device::kCpu)
    peak_gflops_ = product_peak(config_.precision.compute == "bf16", kPeakSeconds);
  const int32_t meaning = meaning_of(*space_, order_);
  *meaning_.ptr<int32_t>() = meaning;
  const auto fits = [&](const TrainingCounters& at) {
    NESTLING_CHECK_INPUT(*meaning_.ptr<int32_t>() == meaning, run_.dir().string(),
                         ": its checkpoints were trained with other widths in elastic.choices, or "
                         "another order of units (scores.json); give this run another name");
    NESTLING_CHECK_INPUT(
        at.step <= curriculum_.steps() && at.tokens == curriculum_.tokens_before(at.step),
        run_.dir().string(), ": its checkpoint is at step ", at.step, " and ", at.tokens,
        " tokens, where this curriculum of ", curriculum_.steps(),
        " steps never is; only what lies ahead of a checkpoint may change");
  };
  if (!run_.begin(state(), fits)) return;
  step_->student().refresh_low(ctx_);
  router_->restored();
}

void ElasticRun::distill(int64_t last_step) {
  if (!step_) begin();
  const int64_t end = std::min(last_step, curriculum_.steps());
  while (run_.at.step < end) {
    one_step();
    if (run_.at.step % config_.log.validate_every_steps == 0 || run_.at.step == curriculum_.steps())
      validate();
    if (run_.interrupted(ctx_)) {
      run_.save(state());
      throw Interrupted(
          str("saved at step ", run_.at.step, " on a signal; the same command goes on from there"));
    }
    run_.save_if_due(state());
  }
  if (run_.at.step == curriculum_.steps() && !router_->frozen()) {
    router_->freeze_now();
    log_choices("the curriculum ended before choices settled; frozen now");
  }
  if (!run_.saved()) run_.save(state());
}

// On the host, read anew: a teacher in bf16 has no masters any more.
Weights ElasticRun::sorted_parent() const {
  Weights parent(model_, Device::kCpu, {});
  import_weights(config_.parent, model_, parent);
  apply_order(model_, order_, parent);
  return parent;
}

void ElasticRun::write_elastic_files() {
  NESTLING_CHECK(run_.at.step == curriculum_.steps(), "an elastic file before its run is over");
  comm_.at_root([&] {
    const StoredType type = config_.store == "bf16" ? StoredType::kBF16 : StoredType::kF32;
    const ElasticModel model = elastic_record({.config = config_,
                                               .model = model_,
                                               .order = order_,
                                               .scores = *scores_,
                                               .router = *router_,
                                               .run = run_});
    write_elastic(run_.dir() / "before.h5", model, sorted_parent(), type);
    write_elastic(run_.dir() / "elastic.h5", model, step_->student(), type);
    run_.say(str("elastic checkpoint written to ", (run_.dir() / "elastic.h5").string()));
    drop_stale_summary(config_, run_.dir());
  });
}

void ElasticRun::evaluate() {
  step_.reset();  // its memory is wanted for the models
  teacher_ = teacher_.extents();
  evaluate_run(config_, run_.dir(), comm_, [&] {
    stop_if_told(ctx_, comm_,
                 "stopped on a signal while sizes were evaluated; the same command evaluates them "
                 "from the start");
  });
  comm_.at_root([&] { write_report(run_.dir()); });
}

int elastic_run(const RunConfig& config, Comm& comm, ConfigChange change, LastStage last) {
  DeviceComm ranks(comm, parse_device(config.device));
  return unless_interrupted(comm, [&] {
    ElasticRun run(config, ranks.comm(), change);
    run.measure_importance();
    if (last == LastStage::kImportance) return 0;
    run.distill();
    run.write_elastic_files();
    if (last == LastStage::kReport) run.evaluate();
    return 0;
  });
}

}  // namespace nestling
