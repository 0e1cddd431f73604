// qad.h - quantization-aware distillation: from the trained sizes to the same sizes on FP8 or NVFP4 codes, all at once, in
// a run of its own in the folder `qad` of the run.
//
//   forward: codes of weights and of activations    backward: straight through them    loss: as before, against the parent
//
// Calibration   scales of activations are of the largest that any size shows on data.calibration; scales of weights of
//               the trained weights (model/quantization.h). Both stay while the codes are trained.
// Writes        dir()/qad/: before.h5 (quantized, not trained), elastic.h5 (trained on), and as every run config.yaml,
//               log.jsonl, TensorBoard events, checkpoints/.
// Done before   a before.h5 of the same weights, format and calibration is taken as it is, so training that resumes has
//               the scales it began with; training resumes bit for bit on the same layout, as distillation.
// Memory        as that of distillation, and the codes: a byte (FP8) or 0.57 (NVFP4) a quantized parameter, in place of
//               its low copy.
// Errors        kInput: nothing of the model is quantized, or a size or choice cuts a block of NVFP4; weights or
//               activations that are not finite; scales other than those that checkpoints of the folder were trained
//               with (another format, weights trained further), whatever config changes are allowed.
// Source        arXiv 2601.20088 (forward KL alone, T = 1, learning rate 1e-5); sizes at once, and the parent as the
//               teacher of all: as elastic distillation does.
#pragma once
#include <limits>
#include <optional>

#include "model/elastic_model.h"
#include "trainer/run/distillation.h"

namespace nestling {

// Throws kInput unless the sizes that a space allows can all be codes of this format. `where` begins the message.
void check_quantizable(const ElasticSpace& space, WeightFormat format, const std::string& where);

struct QadParts {
  const RunConfig& config;  // of the whole run
  Comm& comm;
  Context& ctx;
  TrainingRun& run;  // of the whole run: texts and inputs are its
  Validation& validation;
  const ElasticSpace& space;
  RouterTraining& router;  // frozen
  Weights& teacher;        // sorted
};

class Qad {
 public:
  // Takes the folder; nothing is computed.
  Qad(const QadParts& parts, ConfigChange change);

  // Writes before.h5 unless it is there. `trained`: the step whose student the sizes are; `record`: what elastic.h5 says.
  void calibrate(DistillStep& trained, const ElasticModel& record);
  // After it: trains codes from masters, on the CPU or the context's device, or goes on from the newest checkpoint.
  void begin(const Weights& masters);
  void train(int64_t last_step = std::numeric_limits<int64_t>::max());
  void write(const ElasticModel& record);  // elastic.h5

  TrainingState state() { return step_->state(); }
  const TrainingCounters& at() const { return run_.at; }

 private:
  std::vector<float> largest_inputs(DistillStep& trained);
  std::string origin() const;
  void check_scales(const Quantization& q, const std::string& made_of) const;

  QadParts parts_;
  const RunConfig config_;  // of this stage
  WeightFormat format_;
  TrainingRun run_;
  std::optional<DistillStep> step_;
  std::optional<Distillation> distillation_;
};

}  // namespace nestling
