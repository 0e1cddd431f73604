// validation.h - held-out loss of every size while a run goes on.
//
// Text          each source of data.validation by itself, its first data.validation_tokens tokens in
//               whole sequences of evaluation.seq_len; the same ones every time, on any number of ranks.
//               A source that has fewer is refused (kInput).
// Sizes         prefix views of the student at the widths the router holds most probable now; they need not
//               meet the budget before the choices are frozen.
// Tags          valid/SOURCE/NAME/{loss, kl}: nats a token.
// Ranks         each scores its share; sums are over all.
#pragma once
#include <map>

#include "trainer/distill_step.h"
#include "trainer/training_run.h"

namespace nestling {

class Validation {
 public:
  Validation(const RunConfig& config, TrainingRun& run);
  bool empty() const { return sources_.empty(); }
  std::map<std::string, double> measure(DistillStep& step, Context& ctx, Comm& comm);

 private:
  const RunConfig& config_;
  const TrainingRun& run_;
  std::vector<Batches> sources_;
};

}  // namespace nestling
