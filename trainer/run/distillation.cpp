#include "trainer/run/distillation.h"

#include <algorithm>
#include <chrono>

#include "kernels/core/peaks.h"
#include "trainer/run/step_log.h"
#include "trainer/schedule.h"

namespace nestling {

namespace {

std::string widths_text(const ElasticSpace& space, const Selection& selection) {
  std::string text;
  for (size_t a = 0; a < space.axes.size(); ++a)
    text += str(a > 0 ? ", " : "", axis_name(space.axes[a].axis), " ",
                space.axes[a].widths[static_cast<size_t>(selection[a])]);
  return text;
}

}  // namespace

Distillation::Distillation(const DistillationParts& parts, std::vector<Batches> phases)
    : parts_(parts), curriculum_(parts.config), phases_(std::move(phases)) {
  constexpr double kPeakSeconds = 0.05;
  if (parts_.ctx.device() == Device::kCpu)
    peak_gflops_ = product_peak(parts_.config.precision.compute == "bf16", kPeakSeconds);
}

void Distillation::check_place(const TrainingCounters& at) const {
  NESTLING_CHECK_INPUT(
      at.step <= curriculum_.steps() && at.tokens == curriculum_.tokens_before(at.step),
      parts_.run.dir().string(), ": its checkpoint is at step ", at.step, " and ", at.tokens,
      " tokens, where this curriculum of ", curriculum_.steps(),
      " steps never is; only what lies ahead of a checkpoint may change");
}

void Distillation::log_choices(const char* what) {
  TrainingRun& run = parts_.run;
  std::string text = what;
  for (int64_t s = 0; s < parts_.router.sizes(); ++s)
    text += str("; ", parts_.config.elastic.sizes[static_cast<size_t>(s)].name, ": ",
                widths_text(parts_.space, parts_.router.selections()[static_cast<size_t>(s)]));
  run.say(text);
  run.log().write({.step = run.at.step, .tokens = run.at.tokens, .scalars = {}, .event = text});
}

void Distillation::log_step(const DistillResult& result, const PlaceInCurriculum& place, double lr,
                            double seconds) {
  TrainingRun& run = parts_.run;
  const PhaseConfig& phase = parts_.config.curriculum[place.phase];
  if (result.skipped)
    run.log().write(
        {.step = run.at.step,
         .tokens = run.at.tokens,
         .scalars = {},
         .event = str("step ", run.at.step, " skipped: loss ", result.loss, ", budget loss ",
                      result.budget, ", gradient norm ", result.grad_norm, ", of the router ",
                      result.router_grad_norm, ", phase ", phase.name, ", sequences ",
                      place.position, " to ", run.at.position - 1)});
  if (run.at.step % parts_.config.log.every_steps != 0 && run.at.step != curriculum_.steps())
    return;
  const StepCost cost{.seconds = seconds,
                      .flops = parts_.ctx.total_work().flops,
                      .tokens = static_cast<double>(phase.global_batch_tokens),
                      .peak_gflops = peak_gflops_};
  run.log().write(
      step_record(parts_.config, parts_.space, parts_.router, result, run.at, lr, cost));
  run.log().progress(run.at.step, run.at.tokens, curriculum_.tokens(), result.loss,
                     cost.tokens / cost.seconds);
}

void Distillation::one_step() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const RunConfig& config = parts_.config;
  TrainingRun& run = parts_.run;
  parts_.ctx.reset_work();
  const PlaceInCurriculum place = curriculum_.place(run.at.step);
  const PhaseConfig& phase = config.curriculum[place.phase];
  const int64_t sequences = phase.global_batch_tokens / phase.seq_len;
  const std::vector<Batch> batches =
      run.load(phases_[place.phase], place.position, sequences, micro_batch_of(config, phase));
  const int64_t after = run.at.tokens + phase.global_batch_tokens;
  const double lr = learning_rate(config.optimizer, after, curriculum_.tokens());
  parts_.step.reserve(batches);
  run.tell_memory(parts_.ctx);
  const DistillResult result = parts_.step.run(
      batches, sampling_weights(phase, config.elastic.sizes),
      {.step = run.at.step, .update = run.at.updates + 1, .tokens = run.at.tokens, .lr = lr});
  run.at.step += 1;
  run.at.tokens = after;
  run.at.position = place.position + sequences;
  if (result.skipped)
    run.at.skipped += 1;
  else
    run.at.updates += 1;
  log_step(result, place, lr, std::chrono::duration<double>(Clock::now() - start).count());
  if (!result.skipped && parts_.router.settle(run.at.tokens)) {  // after the record: under masks
    frozen_after_ = run.at.step;
    log_choices("choices frozen, slices from here on");
  }
}

void Distillation::validate() {
  if (parts_.validation.empty()) return;
  TrainingRun& run = parts_.run;
  run.log().write({.step = run.at.step,
                   .tokens = run.at.tokens,
                   .scalars = parts_.validation.measure(parts_.step, parts_.ctx, parts_.comm),
                   .event = {}});
}

void Distillation::run(int64_t last_step) {
  TrainingRun& run = parts_.run;
  const int64_t end = std::min(last_step, curriculum_.steps());
  while (run.at.step < end) {
    one_step();
    if (run.at.step % parts_.config.log.validate_every_steps == 0 ||
        run.at.step == curriculum_.steps())
      validate();
    if (run.interrupted(parts_.ctx)) {
      run.save(parts_.state());
      throw Interrupted(
          str("saved at step ", run.at.step, " on a signal; the same command goes on from there"));
    }
    run.save_if_due(parts_.state());
  }
  if (run.at.step == curriculum_.steps() && !parts_.router.frozen()) {
    parts_.router.freeze_now();
    log_choices("the curriculum ended before choices settled; frozen now");
  }
  if (!run.saved()) run.save(parts_.state());
}

}  // namespace nestling
