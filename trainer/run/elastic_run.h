// elastic_run.h - `nestling run`: from a parent to one file with every size, stage by stage.
//
// Stages        importance, sort, distil through all phases, write the elastic checkpoint, quantize and distil on codes
//               (qad.h, where config.qad has a format), evaluate, report.
//               Importance, training steps and evaluation that are done are not repeated, so the same command
//               continues where it was cut; the elastic files and the report are written again.
// Writes        config.output/config.name/: config.yaml, scores.json, log.jsonl, TensorBoard events,
//               checkpoints/, before.h5 (the sorted parent, untrained, with the sizes' widths), elastic.h5,
//               summary.json, report.html, qad/ (with a summary.json and a report.html of its own). Nothing anywhere else.
// Resume        distillation resumes from the newest whole checkpoint, bit for bit on the same layout.
// Signals       SIGTERM and SIGINT finish the step, save, and end with kInterrupted. While text is tokenised,
//               importance measured or the sizes evaluated they end that within a batch, with kInterrupted
//               too, and it is done again. While activations are calibrated for codes they wait until it is over.
// Ranks         data parallel over `comm`; rank 0 writes all but checkpoints. Every rank makes the same calls.
#pragma once
#include <limits>
#include <optional>

#include "kernels/comm/comm.h"
#include "model/units.h"
#include "trainer/curriculum.h"
#include "trainer/distill_step.h"
#include "trainer/pretrain.h"
#include "trainer/run/distillation.h"
#include "trainer/run/qad.h"
#include "trainer/run/validation.h"
#include "trainer/run_config.h"
#include "trainer/training_run.h"

namespace nestling {

class ElasticRun {
 public:
  // Reads the parent and the validation texts. kInput where the config does not fit them, the ranks or the
  // build.
  ElasticRun(const RunConfig& config, Comm& comm, ConfigChange change);

  // The stages; each throws Interrupted (stop_signal.h) when told to stop.
  //
  // Scores of every unit, from scores.json if they are there.
  void measure_importance();
  // Sorts the parent, then trains from the newest checkpoint to `last_step` or the curriculum's end.
  void distill(int64_t last_step = std::numeric_limits<int64_t>::max());
  // The curriculum must be over.
  void write_elastic_files();
  // Calibrates, then trains on codes to `last_step` of that stage or its end; no config.qad.format: nothing.
  void quantize(int64_t last_step = std::numeric_limits<int64_t>::max());
  void write_quantized_file();  // that stage must be over
  void evaluate();              // and the report; training is over, and gives its memory back

  // Of distillation, from its beginning until quantize().
  TrainingState state();
  const TrainingCounters& at() const { return run_.at; }
  Qad* qad() { return qad_ ? &*qad_ : nullptr; }  // once quantize() has begun
  const RouterTraining& router() const { return *router_; }
  // Steps after which choices settled, if that happened in this object's lifetime.
  std::optional<int64_t> frozen_after() const { return distillation_->frozen_after(); }

 private:
  void sort();
  void write_sorted_parent() const;
  void begin();
  ElasticModel record() const;

  const RunConfig config_;
  Comm& comm_;
  const ConfigChange change_;
  TrainingRun run_;
  Validation validation_;
  Context ctx_;
  ModelConfig model_;
  Weights teacher_;
  std::optional<Scores> scores_;
  Order order_;
  Tensor meaning_{Device::kCpu, DType::kI32, {1}};  // of choices and units, in checkpoints
  std::optional<ElasticSpace> space_;
  std::optional<RouterTraining> router_;
  std::optional<DistillStep> step_;
  std::optional<Distillation> distillation_;
  std::optional<Qad> qad_;
};

enum class LastStage : uint8_t { kImportance, kTraining, kReport };
// All stages up to the last one wanted; the exit code.
int elastic_run(const RunConfig& config, Comm& comm, ConfigChange change, LastStage last);

}  // namespace nestling
