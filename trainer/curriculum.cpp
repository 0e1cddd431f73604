#include "trainer/curriculum.h"

#include <algorithm>

namespace nestling {

Curriculum::Curriculum(const RunConfig& config) {
  for (const PhaseConfig& phase : config.curriculum) {
    const int64_t batch = phase.global_batch_tokens;
    const int64_t steps = (phase.tokens + batch - 1) / batch;
    phases_.push_back({.steps = steps, .sequences = batch / phase.seq_len, .batch_tokens = batch});
    total_steps_ += steps;
    total_tokens_ += steps * batch;
  }
}

int64_t Curriculum::tokens_before(int64_t step) const {
  int64_t tokens = 0;
  for (const Phase& phase : phases_) {
    const int64_t taken = std::min(step, phase.steps);
    tokens += taken * phase.batch_tokens;
    step -= taken;
  }
  return tokens;
}

PlaceInCurriculum Curriculum::place(int64_t step) const {
  NESTLING_CHECK(step >= 0 && step < total_steps_, "step ", step, " of a curriculum of ",
                 total_steps_);
  PlaceInCurriculum place{.step = step};
  while (place.step >= phases_[place.phase].steps) place.step -= phases_[place.phase++].steps;
  place.position = place.step * phases_[place.phase].sequences;
  return place;
}

}  // namespace nestling
