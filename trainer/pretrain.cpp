#include "trainer/pretrain.h"

#include <chrono>

#include "kernels/comm/nccl.h"
#include "kernels/core/host_view.h"
#include "model/family.h"
#include "model/huggingface.h"
#include "runtime/parent.h"
#include "trainer/pin_machine.h"
#include "trainer/schedule.h"
#include "trainer/train_step.h"
#include "trainer/training_run.h"
#include "trainer/whole_masters.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Everything a run holds between steps.
class Pretraining {
 public:
  Pretraining(const PretrainConfig& config, Comm& comm, ConfigChange change);
  void run();

 private:
  ModelConfig architecture() const;
  void check_balance(const ModelConfig& model) const;
  void start();
  std::vector<Batch> next_batches();
  void one_step();
  void log_step(const StepResult& result, double seconds);
  void validate();
  void export_model(const Weights& weights);

  const PretrainConfig& config_;
  Comm& comm_;
  TrainingRun run_;
  ModelConfig model_;
  Context ctx_;
  TrainStep step_;
  Batches train_;
  std::vector<Batches> validation_;  // one a source
};

// The rule that balances experts moves a bias, which gates by softmax do not have.
void Pretraining::check_balance(const ModelConfig& model) const {
  const bool biased = !model.has(LayerKind::kMoe) || model.gate.kind == GateKind::kSigmoid;
  NESTLING_CHECK_INPUT(biased || config_.moe.bias_rate == 0, "moe.bias_rate is ",
                       config_.moe.bias_rate, ": gates of family ", family_name(model.family),
                       " have no bias to move, and nothing else balances experts here; needs 0");
}

ModelConfig Pretraining::architecture() const {
  if (!config_.init.empty()) {
    ModelConfig model = Parent(config_.init, "init").config();
    NESTLING_CHECK_INPUT(run_.tokenizer().vocab_size() <= model.vocab, "tokenizer ",
                         config_.tokenizer, " has ids up to ", run_.tokenizer().vocab_size() - 1,
                         ", init ", config_.init, " a vocab_size of ", model.vocab);
    return model;
  }
  ModelConfig model = model_config_of(config_.model, run_.tokenizer().vocab_size());
  model.eos = {end_of_text(run_.tokenizer(), config_.tokenizer)};
  if (const auto turn = run_.tokenizer().token_id("<|im_end|>")) model.eos.push_back(*turn);
  return model;
}

Pretraining::Pretraining(const PretrainConfig& config, Comm& comm, ConfigChange change)
    : config_(config),
      comm_(comm),
      run_(run_settings(config, config.tokenizer), comm, change),
      model_(architecture()),
      ctx_(parse_device(config.device)),
      step_(model_, config, ctx_, comm),
      train_(run_.batches(config.data.train, config.seq_len, config.seed)) {
  check_balance(model_);
  for (const TextConfig& text : config.data.validation)
    validation_.push_back(run_.held_out(text, config.data.validation_tokens, config.seq_len));
}

void Pretraining::start() {
  if (run_.begin(step_.state()))
    step_.weights().refresh_low(ctx_);
  else if (config_.init.empty())
    step_.weights().initialize(config_.seed);
  else
    Parent(config_.init, "init").import(model_, step_.weights());
}

std::vector<Batch> Pretraining::next_batches() {
  return run_.load(train_, run_.at.position, config_.global_batch_tokens / config_.seq_len,
                   config_.micro_batch);
}

void Pretraining::log_step(const StepResult& result, double seconds) {
  const double rate = static_cast<double>(config_.global_batch_tokens) / seconds;
  LogRecord record{
      .step = run_.at.step,
      .tokens = run_.at.tokens,
      .scalars = {{"loss", result.loss},
                  {"grad_norm", result.grad_norm},
                  {"lr", learning_rate(config_.optimizer, run_.at.tokens, config_.tokens)},
                  {"tokens_per_second", rate},
                  {"skipped", static_cast<double>(run_.at.skipped)}},
      .event = {}};
  if (result.expert_imbalance > 0) record.scalars["expert_imbalance"] = result.expert_imbalance;
  run_.log().write(record);
  run_.log().progress(run_.at.step, run_.at.tokens, config_.tokens, result.loss, rate);
}

void Pretraining::one_step() {
  const auto start = Clock::now();
  const std::vector<Batch> batches = next_batches();
  const int64_t tokens = config_.global_batch_tokens;
  const double lr = learning_rate(config_.optimizer, run_.at.tokens + tokens, config_.tokens);
  const int64_t first = run_.at.position;
  step_.reserve(batches);
  run_.tell_memory(ctx_);
  const StepResult result = step_.run(batches, lr, run_.at.updates + 1);
  run_.at.step += 1;
  run_.at.tokens += tokens;
  run_.at.position += tokens / config_.seq_len;
  if (result.skipped) {
    run_.at.skipped += 1;
    run_.log().write(
        {.step = run_.at.step,
         .tokens = run_.at.tokens,
         .scalars = {},
         .event = str("step ", run_.at.step, " skipped: loss ", result.loss, ", gradient norm ",
                      result.grad_norm, ", sequences ", first, " to ", run_.at.position - 1)});
  } else {
    run_.at.updates += 1;
  }
  if (run_.at.step % config_.log.every_steps == 0 || run_.at.tokens >= config_.tokens)
    log_step(result, seconds_since(start));
}

void Pretraining::validate() {
  LogRecord record{.step = run_.at.step, .tokens = run_.at.tokens, .scalars = {}, .event = {}};
  for (size_t k = 0; k < validation_.size(); ++k) {
    const int64_t sequences = config_.data.validation_tokens / config_.seq_len;
    LossSum sum;
    const auto score = [&](const Batch& batch, bool counts) {
      const LossSum part = step_.evaluate(batch);
      if (!counts) return;
      sum.nll += part.nll;
      sum.targets += part.targets;
      sum.correct += part.correct;
    };
    run_.each_held_out(validation_[k], sequences, config_.micro_batch, score);
    std::vector<double> all = {sum.nll, sum.targets, sum.correct};
    comm_.all_reduce(ctx_, host_view(all), Reduce::kSum);
    const std::string tag = "valid/" + log_name(config_.data.validation[k]);
    record.scalars[tag + "/loss"] = all[0] / all[1];
    record.scalars[tag + "/accuracy"] = all[2] / all[1];
  }
  if (!record.scalars.empty()) run_.log().write(record);
}

void Pretraining::export_model(const Weights& weights) {
  const fs::path out = run_.dir() / "model";
  fs::remove_all(out);
  fs::create_directories(out);
  export_weights(out, model_, weights, {});
  for (const char* name : kTokenizerFiles) {
    const fs::path from = fs::path(config_.tokenizer) / name;
    if (fs::exists(from)) fs::copy_file(from, out / name);
  }
  run_.say(str("model written to ", out.string()));
}

void Pretraining::run() {
  start();
  while (run_.at.tokens < config_.tokens) {
    one_step();
    if (run_.at.step % config_.log.validate_every_steps == 0 || run_.at.tokens >= config_.tokens)
      validate();
    if (run_.interrupted(ctx_)) {
      run_.save(step_.state());
      throw Interrupted(
          str("saved at step ", run_.at.step, " on a signal; the same command goes on from there"));
    }
    run_.save_if_due(step_.state());
  }
  if (!run_.saved()) run_.save(step_.state());
  at_root_with_masters(ctx_, comm_, step_.weights(),
                       [&](const Weights& whole) { export_model(whole); });
}

}  // namespace

int pretrain(const PretrainConfig& config, Comm& comm, ConfigChange change) {
  check_shared_batch("", config.global_batch_tokens, config.seq_len, comm.size());
  pin_machine(config);
  DeviceComm ranks(comm, parse_device(config.device));
  return unless_interrupted(comm, [&] {
    Pretraining(config, ranks.comm(), change).run();
    return 0;
  });
}

}  // namespace nestling
