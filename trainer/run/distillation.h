// distillation.h - the training steps of a curriculum, from where the run stands to its end: what distillation and the
// quantization-aware stage after it share.
//
// Steps         each is logged (step_log.h), validated and saved when due. Choices of the router are frozen when they
//               settle, or where the curriculum ends.
// Signals       end it with Interrupted, saved.
// Ownership     borrows all of DistillationParts; every rank makes the same calls.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/comm/comm.h"
#include "trainer/curriculum.h"
#include "trainer/distill_step.h"
#include "trainer/run/validation.h"
#include "trainer/run_config.h"
#include "trainer/training_run.h"

namespace nestling {

struct DistillationParts {
  const RunConfig& config;
  Comm& comm;
  Context& ctx;
  TrainingRun& run;
  Validation& validation;
  const ElasticSpace& space;
  RouterTraining& router;
  DistillStep& step;
  std::function<TrainingState()> state;  // what checkpoints hold
};

class Distillation {
 public:
  // `phases`: training text of every phase.
  Distillation(const DistillationParts& parts, std::vector<Batches> phases);

  // kInput where a checkpoint stands where this curriculum never does.
  void check_place(const TrainingCounters& at) const;
  // Trains to `last_step` or the curriculum's end, and saves what has not been.
  void run(int64_t last_step);
  void validate();
  const Curriculum& curriculum() const { return curriculum_; }
  // Steps after which choices settled, if that happened in this object's lifetime.
  std::optional<int64_t> frozen_after() const { return frozen_after_; }

 private:
  void one_step();
  void log_step(const DistillResult& result, const PlaceInCurriculum& place, double lr,
                double seconds);
  void log_choices(const char* what);

  DistillationParts parts_;
  Curriculum curriculum_;
  std::vector<Batches> phases_;
  double peak_gflops_ = 0;  // of this CPU; 0 on a device
  std::optional<int64_t> frozen_after_;
};

}  // namespace nestling
