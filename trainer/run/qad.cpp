#include "trainer/run/qad.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "kernels/core/host_view.h"
#include "model/elastic_file.h"
#include "model/quantize.h"
#include "trainer/run/elastic_record.h"
#include "trainer/run/evaluate_run.h"
#include "trainer/whole_masters.h"

namespace nestling {

namespace {

constexpr const char* kOrigin = "quantization";  // of provenance

}  // namespace

void check_quantizable(const ElasticSpace& space, WeightFormat format, const std::string& where) {
  const std::vector<bool> quantized = quantized_parameters(space.config);
  NESTLING_CHECK_INPUT(std::ranges::find(quantized, true) != quantized.end(), where,
                       ": no layer of the parent is quantized: attention and the Mamba layer in "
                       "front of it never are");
  for (size_t a = 0; a < space.axes.size(); ++a)
    for (size_t choice = 0; choice < space.axes[a].widths.size(); ++choice) {
      Selection one(space.axes.size(), 0);
      one[a] = static_cast<int64_t>(choice);
      check_quantizable(
          space.config, format, widths_of(space, one),
          str(where, ": ", axis_name(space.axes[a].axis), " ", space.axes[a].widths[choice]));
    }
}

Qad::Qad(const QadParts& parts, ConfigChange change)
    : parts_(parts),
      config_(qad_run(parts.config)),
      format_(parse_weight_format(config_.qad.format, "qad.format")),
      run_(run_settings(config_, config_.parent), parts.comm, change) {
  for (const auto& [name, digest] : parts_.run.inputs()) run_.input(name, digest);
}

// What before.h5 was made of and how.
std::string Qad::origin() const {
  const CalibrationConfig& c = config_.data.calibration;
  return dump_json(Json{{"format", config_.qad.format},
                        {"source", elastic_digest(parts_.run.dir() / "elastic.h5")},
                        {"samples", c.samples},
                        {"seq_len", c.seq_len},
                        {"seed", parts_.config.seed}},
                   -1);
}

// Of every parameter, in any size, on all ranks' part of the calibration's sequences.
std::vector<float> Qad::largest_inputs(DistillStep& trained) {
  const CalibrationConfig& c = config_.data.calibration;
  const RunConfig& whole = parts_.config;
  Tensor seen(parts_.ctx.device(), DType::kF32, {trained.student().count()});
  fill_zero(seen.view());
  trained.watch_inputs(seen.view());
  Batches text = parts_.run.batches(whole.data.train, c.seq_len, whole.seed);
  std::vector<HeldOutLoss> unread(whole.elastic.sizes.size());
  parts_.run.each_held_out(text, c.samples, micro_batch_of(config_, config_.curriculum.front()),
                           [&](const Batch& batch, bool) { trained.evaluate(batch, unread); });
  trained.watch_inputs({});
  const Tensor host = on_host(seen.view());
  std::vector<double> all(host.ptr<float>(), host.ptr<float>() + host.size());
  parts_.comm.all_reduce(parts_.ctx, host_view(parts_.ctx, all), Reduce::kMax);
  for (size_t i = 0; i < all.size(); ++i)
    NESTLING_CHECK_INPUT(std::isfinite(all[i]), parts_.run.dir().string(), ": an activation that ",
                         trained.student().specs()[i].name, " is multiplied with is not finite");
  return {all.begin(), all.end()};
}

// Masters of a checkpoint have learned codes of the scales that before.h5 holds: these and no others.
void Qad::check_scales(const Quantization& q, const std::string& made_of) const {
  const std::filesystem::path file = run_.dir() / "before.h5";
  const CheckpointStore checkpoints(run_.dir() / "checkpoints", config_.checkpoint.keep);
  if (!std::filesystem::exists(file) || checkpoints.list().empty()) return;
  const ElasticHeader before = read_elastic_header(file);
  const auto origin = before.model.provenance.find(kOrigin);
  NESTLING_CHECK_INPUT(
      before.quantization && before.quantization->format == q.format &&
          before.quantization->parameters == q.parameters,
      run_.dir().string(), ": its checkpoints were trained on codes of other scales, made of ",
      origin == before.model.provenance.end() ? "something unknown" : origin->second,
      ", where there is now ", made_of,
      "; remove this folder to begin the stage again, or give the run another name");
}

void Qad::calibrate(DistillStep& trained, const ElasticModel& record) {
  const std::filesystem::path file = run_.dir() / "before.h5";
  const std::string made_of = origin();
  if (std::filesystem::exists(file)) {
    const auto provenance = read_elastic_header(file).model.provenance;
    const auto at = provenance.find(kOrigin);
    if (at != provenance.end() && at->second == made_of)
      return run_.say(str("quantized already: ", file.string()));
  }
  const std::vector<float> largest = largest_inputs(trained);
  at_root_with_masters(parts_.ctx, parts_.comm, trained.student(), [&](const Weights& masters) {
    const ModelConfig& model = parts_.space.config;
    Quantization q = weight_scales(model, format_, masters);
    set_input_scales(q, model, largest);
    check_scales(q, made_of);
    Context host(Device::kCpu);
    ElasticModel written = record;
    written.provenance[kOrigin] = made_of;
    std::filesystem::create_directories(run_.dir());
    write_elastic(file, written, quantize_weights(host, model, masters, std::move(q), DType::kF32),
                  stored_type(config_));
    run_.say(str("quantized, not trained yet: ", file.string()));
  });
}

void Qad::begin(const Weights& masters) {
  const std::filesystem::path before = run_.dir() / "before.h5";
  run_.input("before.h5", elastic_digest(before));
  step_.emplace(
      parts_.space, config_, parts_.teacher, parts_.router, parts_.ctx, parts_.comm,
      teacher_masters(config_),
      StudentStart{.masters = &masters, .quantization = read_elastic_header(before).quantization});
  std::vector<Batches> text;
  text.push_back(
      parts_.run.batches(config_.data.train, config_.curriculum.front().seq_len, config_.seed));
  distillation_.emplace(DistillationParts{.config = config_,
                                          .comm = parts_.comm,
                                          .ctx = parts_.ctx,
                                          .run = run_,
                                          .validation = parts_.validation,
                                          .space = parts_.space,
                                          .router = parts_.router,
                                          .step = *step_,
                                          .state = [this] { return state(); }},
                        std::move(text));
  if (run_.begin(state(), [&](const TrainingCounters& at) { distillation_->check_place(at); }))
    step_->student().refresh_low(parts_.ctx);
  else
    distillation_->validate();
}

void Qad::train(int64_t last_step) {
  distillation_->run(last_step);
}

void Qad::write(const ElasticModel& record) {
  NESTLING_CHECK(run_.at.step == distillation_->curriculum().steps(),
                 "a quantized file before its training is over");
  const Quantization q = *step_->student().quantization();
  at_root_with_masters(parts_.ctx, parts_.comm, step_->student(), [&](const Weights& masters) {
    Context host(Device::kCpu);
    ElasticModel written = record;
    written.provenance[kOrigin] = origin();
    written.provenance["quantized tokens"] = std::to_string(run_.at.tokens);
    written.provenance["quantized steps"] = std::to_string(run_.at.step);
    const std::filesystem::path file = run_.dir() / "elastic.h5";
    write_elastic(file, written,
                  quantize_weights(host, parts_.space.config, masters, q, DType::kF32),
                  stored_type(config_));
    run_.say(str("quantized elastic checkpoint written to ", file.string()));
    drop_stale_summary(parts_.config, run_.dir());
  });
}

}  // namespace nestling
