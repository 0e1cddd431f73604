// curriculum.h - where in the phases of a run a step lies. A pure function of the config.
//
// Steps         a phase takes as many whole steps as its tokens need; the last may go beyond them by
//               less than one global batch.
// Data          every phase reads its sources from position 0, under a seed of its own.
#pragma once
#include "trainer/run_config.h"

namespace nestling {

struct PlaceInCurriculum {
  size_t phase = 0;
  int64_t step = 0;      // in the phase
  int64_t position = 0;  // its next sequence
};

class Curriculum {
 public:
  explicit Curriculum(const RunConfig& config);
  int64_t steps() const { return total_steps_; }
  int64_t tokens() const { return total_tokens_; }  // what the steps see
  PlaceInCurriculum place(int64_t step) const;      // step < steps()
  int64_t tokens_before(int64_t step) const;        // step <= steps()

 private:
  struct Phase {
    int64_t steps, sequences, batch_tokens;
  };
  std::vector<Phase> phases_;
  int64_t total_steps_ = 0;
  int64_t total_tokens_ = 0;
};

}  // namespace nestling
