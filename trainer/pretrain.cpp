#include "trainer/pretrain.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <sstream>

#include "data/atomic_file.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "model/huggingface.h"
#include "trainer/log.h"
#include "trainer/schedule.h"
#include "trainer/train_step.h"
#include "trainer/training_text.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::atomic<int> caught_signal{0};
void on_signal(int number) {
  caught_signal.store(number);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Everything a run holds between steps.
class Pretraining {
 public:
  Pretraining(const PretrainConfig& config, Comm& comm, ConfigChange change);
  int run();

 private:
  std::vector<SourceSpec> sources(const std::vector<SourceConfig>& list);
  ModelConfig architecture() const;
  void start();
  void resume_or_initialize();
  void accept_config(const std::string& before, const TrainingCounters& at);
  std::vector<Batch> load_step();
  void one_step();
  void log_step(const StepResult& result, double seconds);
  void validate();
  void save();
  void export_model();
  bool writes() const { return comm_.rank() == 0; }
  void say(const std::string& line) const {
    if (writes()) std::fprintf(stderr, "%s\n", line.c_str());
  }

  const PretrainConfig& config_;
  Comm& comm_;
  ConfigChange change_;
  fs::path dir_;
  Tokenizer tokenizer_;
  ModelConfig model_;
  Context ctx_;
  TrainStep step_;
  Batches train_;
  std::vector<Batches> validation_;  // one a source
  CheckpointStore checkpoints_;
  RunLog log_;
  TrainingCounters at_;
  int64_t saved_at_ = 0;
};

int32_t end_of_text(const Tokenizer& tokenizer, const std::string& directory) {
  for (const char* name : {"<|endoftext|>", "</s>", "<|end_of_text|>"})
    if (const auto id = tokenizer.token_id(name)) return *id;
  throw Error(str(directory,
                  ": the tokenizer has no end-of-text token (<|endoftext|>, </s> or "
                  "<|end_of_text|>)"),
              ErrorKind::kInput);
}

std::vector<SourceSpec> Pretraining::sources(const std::vector<SourceConfig>& list) {
  std::vector<std::string> said;
  const TextPreparation preparation{.tokenizer = tokenizer_,
                                    .vocabulary = tokenizer_.vocab_size(),
                                    .end_of_text = end_of_text(tokenizer_, config_.tokenizer),
                                    .cache = dir_ / "shards",
                                    .seed = config_.seed};
  std::vector<SourceSpec> specs = prepare_sources(list, preparation, comm_, said);
  for (const std::string& line : said) say(line);
  return specs;
}

ModelConfig Pretraining::architecture() const {
  if (!config_.init.empty()) return read_model_config(config_.init);
  ModelConfig model = model_config_of(config_.model, tokenizer_.vocab_size());
  model.eos = {end_of_text(tokenizer_, config_.tokenizer)};
  if (const auto turn = tokenizer_.token_id("<|im_end|>")) model.eos.push_back(*turn);
  return model;
}

Pretraining::Pretraining(const PretrainConfig& config, Comm& comm, ConfigChange change)
    : config_(config),
      comm_(comm),
      change_(change),
      dir_(fs::path(config.output) / config.name),
      tokenizer_(config.tokenizer),
      model_(architecture()),
      ctx_(Device::kCpu),
      step_(model_, config, ctx_, comm),
      train_(sources(config.data.train), tokenizer_.vocab_size(), config.seq_len, config.seed),
      checkpoints_(dir_ / "checkpoints", config.checkpoint.keep),
      log_(dir_, config.log.tensorboard, comm.rank() == 0) {
  for (const SourceConfig& source : config.data.validation)
    validation_.emplace_back(sources({source}), tokenizer_.vocab_size(), config.seq_len,
                             config.seed);
}

// The layout under which a resumed run is bit-equal.
std::map<std::string, std::string> layout_of(const Comm& comm) {
  return {{"ranks", std::to_string(comm.size())},
          {"threads", std::to_string(thread_count())},
          {"cpu_isa", cpu_isa_name(cpu_isa())}};
}

// Lines of the old and the new effective config that are not in the other.
std::string differences(const std::string& before, const std::string& now) {
  const auto lines = [](const std::string& text) {
    std::vector<std::string> all;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  };
  const auto missing = [](const std::vector<std::string>& from, const std::vector<std::string>& in,
                          const char* sign) {
    std::string out;
    for (const std::string& line : from)
      if (std::find(in.begin(), in.end(), line) == in.end()) out += "\n  " + (sign + line);
    return out;
  };
  const auto a = lines(before);
  const auto b = lines(now);
  return missing(a, b, "- ") + missing(b, a, "+ ");
}

// The config a checkpoint was made with against the one the run is asked to go on with.
void Pretraining::accept_config(const std::string& before, const TrainingCounters& at) {
  const std::string now = dump_config(config_);
  if (before == now) return;
  const std::string diff = differences(before, now);
  NESTLING_CHECK_INPUT(change_ == ConfigChange::kAllowed, dir_.string(),
                       ": its checkpoints were made with another config:", diff,
                       "\ngo on with the old one, give this run another name, or say "
                       "--change-config to go on under the new one");
  say(str("the config changes at step ", at.step, ":", diff));
  log_.write(
      {.step = at.step, .tokens = at.tokens, .scalars = {}, .event = str("config changed:", diff)});
}

void Pretraining::resume_or_initialize() {
  std::vector<std::string> said;
  const auto meta = checkpoints_.load(step_.state(), said);
  for (const std::string& line : said) say(line);
  if (!meta) {
    if (config_.init.empty())
      step_.weights().initialize(config_.seed);
    else
      import_weights(config_.init, model_, step_.weights());
    return;
  }
  accept_config(meta->config, meta->counters);
  step_.weights().refresh_low(ctx_);
  at_ = meta->counters;
  saved_at_ = at_.tokens;
  for (const auto& [key, value] : layout_of(comm_)) {
    const auto before = meta->layout.find(key);
    if (before != meta->layout.end() && before->second != value)
      say(str("resumed on another layout: ", key, " was ", before->second, ", is ", value,
              "; the order of sums differs"));
  }
  say(str("resumed at step ", at_.step, ", ", at_.tokens, " tokens"));
}

std::vector<Batch> Pretraining::load_step() {
  const int64_t sequences = config_.global_batch_tokens / config_.seq_len;
  const int64_t mine = sequences / comm_.size();
  std::vector<Batch> batches;
  for (int64_t done = 0; done < mine;) {
    // Micro-batch i of all ranks is one run of consecutive sequences.
    const int64_t count = std::min(config_.micro_batch, mine - done);
    batches.push_back(train_.load(at_.position + done * comm_.size(), count * comm_.size(),
                                  comm_.rank(), comm_.size()));
    done += count;
  }
  return batches;
}

void Pretraining::log_step(const StepResult& result, double seconds) {
  const double rate = static_cast<double>(config_.global_batch_tokens) / seconds;
  LogRecord record{.step = at_.step,
                   .tokens = at_.tokens,
                   .scalars = {{"loss", result.loss},
                               {"grad_norm", result.grad_norm},
                               {"lr", learning_rate(config_.optimizer, at_.tokens, config_.tokens)},
                               {"tokens_per_second", rate},
                               {"skipped", static_cast<double>(at_.skipped)}},
                   .event = {}};
  if (result.expert_imbalance > 0) record.scalars["expert_imbalance"] = result.expert_imbalance;
  log_.write(record);
  log_.progress(at_.step, at_.tokens, config_.tokens, result.loss, rate);
}

void Pretraining::one_step() {
  const auto start = Clock::now();
  const std::vector<Batch> batches = load_step();
  const int64_t tokens = config_.global_batch_tokens;
  const double lr = learning_rate(config_.optimizer, at_.tokens + tokens, config_.tokens);
  const int64_t first = at_.position;
  const StepResult result = step_.run(batches, lr, at_.updates + 1);
  at_.step += 1;
  at_.tokens += tokens;
  at_.position += tokens / config_.seq_len;
  if (result.skipped) {
    at_.skipped += 1;
    log_.write({.step = at_.step,
                .tokens = at_.tokens,
                .scalars = {},
                .event = str("step ", at_.step, " skipped: loss ", result.loss, ", gradient norm ",
                             result.grad_norm, ", sequences ", first, " to ", at_.position - 1)});
  } else {
    at_.updates += 1;
  }
  if (at_.step % config_.log.every_steps == 0 || at_.tokens >= config_.tokens)
    log_step(result, seconds_since(start));
}

void Pretraining::validate() {
  LogRecord record{.step = at_.step, .tokens = at_.tokens, .scalars = {}, .event = {}};
  for (size_t k = 0; k < validation_.size(); ++k) {
    const int64_t per_call = config_.micro_batch * comm_.size();
    const int64_t wanted = config_.data.validation_tokens / config_.seq_len;
    LossSum sum;
    for (int64_t at = 0; at < wanted; at += per_call) {
      const LossSum part =
          step_.evaluate(validation_[k].load(at, per_call, comm_.rank(), comm_.size()));
      sum.nll += part.nll;
      sum.targets += part.targets;
      sum.correct += part.correct;
    }
    double all[3] = {sum.nll, sum.targets, sum.correct};
    comm_.all_reduce(ctx_, View(reinterpret_cast<std::byte*>(all), DType::kF64, Device::kCpu, {3}),
                     Reduce::kSum);
    const std::string tag = "valid/" + fs::path(config_.data.validation[k].path).stem().string();
    record.scalars[tag + "/loss"] = all[0] / all[1];
    record.scalars[tag + "/accuracy"] = all[2] / all[1];
  }
  if (!record.scalars.empty()) log_.write(record);
}

void Pretraining::save() {
  if (writes())
    checkpoints_.save({.counters = at_, .layout = layout_of(comm_), .config = dump_config(config_)},
                      step_.state());
  saved_at_ = at_.tokens;
  comm_.barrier();
}

void Pretraining::export_model() {
  if (!writes()) return;
  const fs::path out = dir_ / "model";
  fs::remove_all(out);
  fs::create_directories(out);
  export_weights(out, model_, step_.weights(), {});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                           "generation_config.json", "special_tokens_map.json"}) {
    const fs::path from = fs::path(config_.tokenizer) / name;
    if (fs::exists(from)) fs::copy_file(from, out / name);
  }
  say(str("model written to ", out.string()));
}

void Pretraining::start() {
  if (writes()) {
    fs::create_directories(dir_);
    AtomicFile file(dir_ / "config.yaml");
    file.write(std::string_view(dump_config(config_)));
    file.commit();
  }
  resume_or_initialize();
  if (at_.step == 0) log_.text("config", dump_config(config_));
  std::signal(SIGTERM, on_signal);
  std::signal(SIGINT, on_signal);
}

int Pretraining::run() {
  start();
  while (at_.tokens < config_.tokens) {
    one_step();
    if (at_.step % config_.log.validate_every_steps == 0) validate();
    // One rank's signal stops all: the ranks must agree before the next collective.
    double stop[1] = {static_cast<double>(caught_signal.load() != 0)};
    comm_.all_reduce(ctx_, View(reinterpret_cast<std::byte*>(stop), DType::kF64, Device::kCpu, {1}),
                     Reduce::kMax);
    if (stop[0] > 0) {
      save();
      say(str("saved at step ", at_.step, " on a signal; the same command goes on from there"));
      return kInterrupted;
    }
    if (config_.checkpoint.every_tokens > 0 &&
        at_.tokens - saved_at_ >= config_.checkpoint.every_tokens)
      save();
  }
  validate();
  if (saved_at_ != at_.tokens) save();
  export_model();
  return 0;
}

}  // namespace

int pretrain(const PretrainConfig& config, Comm& comm, ConfigChange change) {
  const int64_t step_sequences = config.global_batch_tokens / config.seq_len;
  NESTLING_CHECK_INPUT(step_sequences % comm.size() == 0, "global_batch_tokens ",
                       config.global_batch_tokens, " is ", step_sequences, " sequences of ",
                       config.seq_len, ", which ", comm.size(), " ranks cannot share equally");
  NESTLING_CHECK_INPUT(config.device == "cpu", "device: '", config.device,
                       "': pretraining runs on cpu in this build");
  if (!config.cpu_isa.empty()) set_cpu_isa(parse_cpu_isa(config.cpu_isa));
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
  Pretraining run(config, comm, change);
  return run.run();
}

}  // namespace nestling
