#include "trainer/run/elastic_run.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "model/elastic_file.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "trainer/calibration.h"
#include "trainer/curriculum.h"
#include "trainer/distill_step.h"
#include "trainer/run/evaluate_run.h"
#include "trainer/run/report.h"
#include "trainer/run/score_file.h"
#include "trainer/schedule.h"
#include "trainer/training_run.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

DType compute_of(const RunConfig& c) {
  return c.compute == "bf16" ? DType::kBF16 : DType::kF32;
}

RunSettings settings_of(const RunConfig& c) {
  return {.name = c.name,
          .output = c.output,
          .tokenizer = c.parent,
          .config = dump_config(c),
          .checkpoint = c.checkpoint,
          .tensorboard = c.log.tensorboard,
          .seed = c.seed};
}

class ElasticRun {
 public:
  ElasticRun(const RunConfig& config, Comm& comm, ConfigChange change);
  int run();

 private:
  Scores importance();
  void sort();
  int distill();
  void one_step();
  void log_step(const DistillResult& result, double seconds);
  void log_choices(const char* what);
  std::vector<NamedState> state();
  ElasticModel describe() const;
  void write_files();

  const RunConfig& config_;
  Comm& comm_;
  TrainingRun run_;
  Curriculum curriculum_;
  Context ctx_;
  ModelConfig model_;
  Weights teacher_;
  Scores scores_;
  Order order_;
  std::optional<ElasticSpace> space_;
  std::optional<RouterTraining> router_;
  std::optional<DistillStep> step_;
  std::vector<Batches> phases_;  // training text of every phase
};

ElasticRun::ElasticRun(const RunConfig& config, Comm& comm, ConfigChange change)
    : config_(config),
      comm_(comm),
      run_(settings_of(config), comm, change),
      curriculum_(config),
      ctx_(Device::kCpu),
      model_(read_model_config(config.parent)),
      teacher_(model_, Device::kCpu, {.compute = compute_of(config)}) {
  import_weights(config.parent, model_, teacher_);
}

// What the scores are of, in one line.
std::string score_origin(const RunConfig& c) {
  std::string sources;
  for (const SourceConfig& s : c.data.train) sources += str(" ", s.path, "*", s.weight);
  return str(c.parent, ", ", c.data.calibration.samples, " sequences of ",
             c.data.calibration.seq_len, " from", sources, ", seed ", c.seed, ", ", c.compute);
}

// Sequences a rank leaves layers out on: the search runs the model once a layer and place.
constexpr int64_t kDepthSequences = 8;

Scores ElasticRun::importance() {
  const fs::path file = run_.dir() / "scores.json";
  const std::string origin = score_origin(config_);
  if (auto scores = read_scores(file, origin)) return *std::move(scores);
  const CalibrationConfig& c = config_.data.calibration;
  const auto start = Clock::now();
  Batches text = run_.batches(config_.data.train, c.seq_len, config_.seed);
  Scores scores = run_importance(
      ctx_, model_, teacher_.params(),
      [&](int64_t position, int64_t count) {
        return text.load(position, count, comm_.rank(), comm_.size());
      },
      {.samples = c.samples,
       .micro_batch = config_.curriculum.front().micro_batch,
       .depth_samples = config_.elastic.choices.layers.empty()
                            ? 0
                            : std::min(c.samples, kDepthSequences * comm_.size())},
      comm_);
  run_.say(str("importance measured on ", c.samples * c.seq_len, " tokens in ",
               seconds_since(start), " s"));
  comm_.barrier();
  if (run_.writes()) write_scores(file, scores, origin);
  comm_.barrier();
  return scores;
}

void ElasticRun::sort() {
  scores_ = importance();
  order_ = order_from_scores(model_, scores_);
  apply_order(model_, order_, teacher_);
  space_ = make_space(model_, written_choices(config_.elastic.choices), config_.elastic.multiple_of,
                      order_.depth);
  router_.emplace(*space_, config_);
  step_.emplace(*space_, config_, teacher_, *router_, ctx_, comm_);
}

std::vector<NamedState> ElasticRun::state() {
  std::vector<NamedState> all = step_->state();
  const std::vector<NamedState> router = router_->state();
  all.insert(all.end(), router.begin(), router.end());
  return all;
}

std::string widths_text(const ElasticSpace& space, const Selection& selection) {
  std::string text;
  for (size_t a = 0; a < space.axes.size(); ++a)
    text += str(a > 0 ? ", " : "", axis_name(space.axes[a].axis), " ",
                space.axes[a].widths[static_cast<size_t>(selection[a])]);
  return text;
}

void ElasticRun::log_choices(const char* what) {
  std::string text = what;
  for (int64_t s = 0; s < router_->sizes(); ++s)
    text += str("; ", config_.elastic.sizes[static_cast<size_t>(s)].name, ": ",
                widths_text(*space_, router_->selections()[static_cast<size_t>(s)]));
  run_.say(text);
  run_.log().write({.step = run_.at.step, .tokens = run_.at.tokens, .scalars = {}, .event = text});
}

void ElasticRun::log_step(const DistillResult& result, double seconds) {
  const auto place = curriculum_.place(run_.at.step - 1);
  const PhaseConfig& phase = config_.curriculum[place.phase];
  const double rate = static_cast<double>(phase.global_batch_tokens) / seconds;
  LogRecord record{
      .step = run_.at.step,
      .tokens = run_.at.tokens,
      .scalars = {{"loss", result.loss},
                  {"budget_loss", result.budget},
                  {"grad_norm", result.grad_norm},
                  {"lr", learning_rate(config_.optimizer, run_.at.tokens, curriculum_.tokens())},
                  {"tokens_per_second", rate},
                  {"sliced", router_->frozen() ? 1.0 : 0.0},
                  {"skipped", static_cast<double>(run_.at.skipped)}},
      .event = {}};
  for (int64_t s = 0; s < router_->sizes(); ++s) {
    const SizeLoss& size = result.sizes[static_cast<size_t>(s)];
    const std::string tag = "size/" + config_.elastic.sizes[static_cast<size_t>(s)].name;
    if (size.tokens > 0) {
      record.scalars[tag + "/kl"] = size.kl;
      record.scalars[tag + "/cost_of_budget"] = size.cost;
    }
    if (router_->frozen()) continue;
    record.scalars[tag + "/least_probability"] = router_->probability(s, run_.at.tokens);
    record.scalars[tag + "/entropy"] = router_->entropy(s, run_.at.tokens);
  }
  run_.log().write(record);
  run_.log().progress(run_.at.step, run_.at.tokens, curriculum_.tokens(), result.loss, rate);
}

void ElasticRun::one_step() {
  const auto start = Clock::now();
  const PlaceInCurriculum place = curriculum_.place(run_.at.step);
  const PhaseConfig& phase = config_.curriculum[place.phase];
  const int64_t sequences = phase.global_batch_tokens / phase.seq_len;
  const std::vector<Batch> batches =
      run_.load(phases_[place.phase], place.position, sequences, phase.micro_batch);
  const int64_t after = run_.at.tokens + phase.global_batch_tokens;
  const double lr = learning_rate(config_.optimizer, after, curriculum_.tokens());
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
                      result.budget, ", gradient norm ", result.grad_norm, ", phase ", phase.name,
                      ", sequences ", place.position, " to ", run_.at.position - 1)});
  } else {
    run_.at.updates += 1;
    if (router_->settle(run_.at.tokens)) log_choices("choices frozen, slices from here on");
  }
  if (run_.at.step % config_.log.every_steps == 0 || run_.at.step == curriculum_.steps())
    log_step(result, seconds_since(start));
}

int ElasticRun::distill() {
  for (size_t p = 0; p < config_.curriculum.size(); ++p)
    phases_.push_back(
        run_.batches(config_.data.train, config_.curriculum[p].seq_len, config_.seed + p));
  if (run_.begin(state())) {
    step_->student().refresh_low(ctx_);
    router_->restored();
  }
  while (run_.at.step < curriculum_.steps()) {
    one_step();
    if (run_.interrupted(ctx_)) {
      run_.save(state());
      run_.say(
          str("saved at step ", run_.at.step, " on a signal; the same command goes on from there"));
      return kInterrupted;
    }
    run_.save_if_due(state());
  }
  if (!router_->frozen()) {
    router_->freeze_now(run_.at.tokens);
    log_choices("the curriculum ended before choices settled; frozen now");
  }
  if (!run_.saved()) run_.save(state());
  return 0;
}

// "crc32c:..." of the directory's weight files, in the order of their names.
std::string digest_of_weights(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  uint32_t crc = 0;
  for (const fs::path& file : files) crc = crc32c(MappedFile(file).bytes(), crc);
  return "crc32c:" + crc32c_hex(crc);
}

// As the model card's front matter says; empty where it says nothing.
std::string licence_of(const fs::path& directory) {
  std::ifstream card(directory / "README.md");
  const std::string key = "license:";
  for (std::string line; std::getline(card, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(' ', key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

ElasticModel ElasticRun::describe() const {
  ElasticModel model{.config = model_,
                     .sizes = {},
                     .order = order_,
                     .scores = scores_,
                     .router = {},
                     .tokenizer = {},
                     .provenance = {}};
  for (int64_t s = 0; s < router_->sizes(); ++s) {
    const SizeBudget& budget = router_->budget(s);
    const double whole = (*budget.cost)(expected(full_widths(model_)));
    const SizeConfig& size = config_.elastic.sizes[static_cast<size_t>(s)];
    model.sizes.push_back({.name = size.name,
                           .target = parse_target(size).cost,
                           .budget = budget.allowed / whole,
                           .widths = router_->widths(s)});
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                           "generation_config.json", "special_tokens_map.json"}) {
    const fs::path from = fs::path(config_.parent) / name;
    if (fs::exists(from)) model.tokenizer[name] = std::string(MappedFile(from).text());
  }
  model.provenance = {{provenance::kParent, fs::path(config_.parent).filename().string()},
                      {provenance::kParentDigest, digest_of_weights(config_.parent)},
                      {provenance::kParentLicence, licence_of(config_.parent)},
                      {"config", dump_config(config_)},
                      {"tokens", std::to_string(run_.at.tokens)},
                      {"steps", std::to_string(run_.at.step)},
                      {"seed", std::to_string(config_.seed)}};
  return model;
}

void ElasticRun::write_files() {
  const StoredType type = config_.store == "bf16" ? StoredType::kBF16 : StoredType::kF32;
  const ElasticModel model = describe();
  write_elastic(run_.dir() / "before.h5", model, teacher_, type);
  write_elastic(run_.dir() / "elastic.h5", model, step_->student(), type);
  run_.say(str("elastic checkpoint written to ", (run_.dir() / "elastic.h5").string()));
}

int ElasticRun::run() {
  fs::create_directories(run_.dir());
  sort();
  if (const int code = distill(); code != 0) return code;
  if (run_.writes()) {
    write_files();
    evaluate_run(config_, run_.dir());
    write_report(run_.dir());
  }
  comm_.barrier();
  return 0;
}

}  // namespace

int elastic_run(const RunConfig& config, Comm& comm, ConfigChange change) {
  for (const PhaseConfig& phase : config.curriculum)
    NESTLING_CHECK_INPUT((phase.global_batch_tokens / phase.seq_len) % comm.size() == 0,
                         "curriculum '", phase.name, "': global_batch_tokens ",
                         phase.global_batch_tokens, " is ",
                         phase.global_batch_tokens / phase.seq_len, " sequences of ", phase.seq_len,
                         ", which ", comm.size(), " ranks cannot share equally");
  NESTLING_CHECK_INPUT(config.device == "cpu", "device: '", config.device,
                       "': elastic runs are on cpu in this build");
  if (!config.cpu_isa.empty()) set_cpu_isa(parse_cpu_isa(config.cpu_isa));
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  ElasticRun run(config, comm, change);
  return run.run();
}

}  // namespace nestling
