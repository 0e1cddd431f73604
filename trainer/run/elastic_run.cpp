#include "trainer/run/elastic_run.h"

#include <algorithm>
#include <chrono>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "kernels/comm/nccl.h"
#include "model/elastic_file.h"
#include "model/order.h"
#include "runtime/parent.h"
#include "trainer/calibration.h"
#include "trainer/pin_machine.h"
#include "trainer/run/elastic_record.h"
#include "trainer/run/evaluate_run.h"
#include "trainer/run/report.h"
#include "trainer/run/score_file.h"
#include "trainer/whole_masters.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Parent parent_of(const RunConfig& config) {
  return {config.parent, "parent"};
}

// Before anything is read or written.
const RunConfig& checked(const RunConfig& config, const Comm& comm) {
  static_cast<void>(parent_of(config));
  check_ranks(config, comm.size());
  pin_machine(config);
  return config;
}

}  // namespace

ElasticRun::ElasticRun(const RunConfig& config, Comm& comm, ConfigChange change)
    : config_(checked(config, comm)),
      comm_(comm),
      change_(change),
      run_(run_settings(config_, config_.parent), comm, change),
      validation_(config_, run_),
      ctx_(parse_device(config_.device)),
      model_(parent_of(config_).config()),
      teacher_(model_, ctx_.device(),
               {.compute = teacher_precision(config_),
                .teacher = true,
                .layers_shared_by = layers_shared_by(config_, comm)}) {
  check_evaluation_texts(config_, run_.tokenizer());
  if (!config_.qad.format.empty())
    check_quantizable(make_space(model_, written_choices(config_.elastic.choices),
                                 config_.elastic.multiple_of, identity_order(model_).depth),
                      parse_weight_format(config_.qad.format, "qad.format"), "qad.format");
  std::filesystem::create_directories(run_.dir());
  const Parent parent = parent_of(config_);
  parent.import(model_, teacher_);
  run_.input(kParentInput, parent.weights_digest());
  run_.input("parent's config", parent.config_digest());
  for (const SizeConfig& size : config_.elastic.sizes)
    if (const fs::path profile = profile_of(size); !profile.empty())
      run_.input("profile " + profile.string(),
                 "crc32c:" + crc32c_hex(crc32c(MappedFile(profile).bytes())));
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
  parent_of(config_).import(model_, teacher_, &order_);
  space_ = make_space(model_, written_choices(config_.elastic.choices), config_.elastic.multiple_of,
                      order_.depth);
  if (const std::string why = unpublished_widths(*space_); !why.empty())
    run_.say("not every size could be cut out by `nestling slice`: " + why);
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

TrainingState ElasticRun::state() {
  TrainingState all = step_->state();
  std::vector<NamedState> beside = router_->state();
  beside.push_back({"elastic/meaning", meaning_.view()});
  for (const NamedState& tensor : beside) all.push_back(whole_run(tensor, comm_.rank() == 0));
  return all;
}

void ElasticRun::begin() {
  if (!scores_) measure_importance();
  sort();
  std::vector<Batches> phases;
  for (size_t p = 0; p < config_.curriculum.size(); ++p)
    phases.push_back(
        run_.batches(config_.data.train, config_.curriculum[p].seq_len, config_.seed + p));
  distillation_.emplace(DistillationParts{.config = config_,
                                          .comm = comm_,
                                          .ctx = ctx_,
                                          .run = run_,
                                          .validation = validation_,
                                          .space = *space_,
                                          .router = *router_,
                                          .step = *step_,
                                          .state = [this] { return state(); }},
                        std::move(phases));
  const int32_t meaning = meaning_of(*space_, order_);
  *meaning_.ptr<int32_t>() = meaning;
  const auto fits = [&](const TrainingCounters& at) {
    NESTLING_CHECK_INPUT(*meaning_.ptr<int32_t>() == meaning, run_.dir().string(),
                         ": its checkpoints were trained with other widths in elastic.choices, or "
                         "another order of units (scores.json); give this run another name");
    distillation_->check_place(at);
  };
  if (!run_.begin(state(), fits)) return;
  step_->student().refresh_low(ctx_);
  router_->restored();
}

void ElasticRun::distill(int64_t last_step) {
  if (!step_) begin();
  distillation_->run(last_step);
}

// Read anew: a teacher in bf16 has no masters any more, and ranks may share it.
void ElasticRun::write_sorted_parent() const {
  write_elastic(run_.dir() / "before.h5", record(), parent_of(config_).parameters(model_, &order_),
                stored_type(config_));
}

ElasticModel ElasticRun::record() const {
  return elastic_record({.config = config_,
                         .model = model_,
                         .order = order_,
                         .scores = *scores_,
                         .router = *router_,
                         .run = run_});
}

void ElasticRun::write_elastic_files() {
  NESTLING_CHECK(run_.at.step == distillation_->curriculum().steps(),
                 "an elastic file before its run is over");
  comm_.at_root([&] { write_sorted_parent(); });
  at_root_with_masters(ctx_, comm_, step_->student(), [&](const Weights& student) {
    write_elastic(run_.dir() / "elastic.h5", record(), student, stored_type(config_));
    run_.say(str("elastic checkpoint written to ", (run_.dir() / "elastic.h5").string()));
    drop_stale_summary(config_, run_.dir());
  });
}

void ElasticRun::quantize(int64_t last_step) {
  if (config_.qad.format.empty()) return;
  if (!qad_) {
    qad_.emplace(QadParts{.config = config_,
                          .comm = comm_,
                          .ctx = ctx_,
                          .run = run_,
                          .validation = validation_,
                          .space = *space_,
                          .router = *router_,
                          .teacher = teacher_},
                 change_);
    qad_->calibrate(*step_, record());
    const Weights trained = step_->student().on(Device::kCpu, DType::kF32);
    distillation_.reset();
    step_.reset();  // its memory is that of the next
    qad_->begin(trained);
  }
  qad_->train(last_step);
}

void ElasticRun::write_quantized_file() {
  if (qad_) qad_->write(record());
}

void ElasticRun::evaluate() {
  distillation_.reset();  // its memory is wanted for the models
  step_.reset();
  const bool quantized = qad_.has_value();
  qad_.reset();
  teacher_ = teacher_.extents();
  const auto between = [&] {
    stop_if_told(ctx_, comm_,
                 "stopped on a signal while sizes were evaluated; the same command evaluates them "
                 "from the start");
  };
  evaluate_run(config_, run_.dir(), comm_, between);
  if (quantized) {
    run_.say(str("quantized to ", config_.qad.format, ", before and after training on it:"));
    evaluate_run(config_, run_.dir() / "qad", comm_, between);
  }
  comm_.at_root([&] {
    write_report(run_.dir());
    if (quantized) write_report(run_.dir() / "qad");
  });
}

int elastic_run(const RunConfig& config, Comm& comm, ConfigChange change, LastStage last) {
  DeviceComm ranks(comm, parse_device(config.device));
  return unless_interrupted(comm, [&] {
    ElasticRun run(config, ranks.comm(), change);
    run.measure_importance();
    if (last == LastStage::kImportance) return 0;
    run.distill();
    run.write_elastic_files();
    run.quantize();
    run.write_quantized_file();
    if (last == LastStage::kReport) run.evaluate();
    return 0;
  });
}

}  // namespace nestling
