// verify_resume.h - does a run that is interrupted end in the bits of one that is not?
//
// Runs          one of 2N steps, in one go; another that is dropped from memory and resumed from its
//               checkpoint after N steps, at every border of two phases, one step before the router's
//               choices freeze, and right after they have, as far as these lie within 2N steps.
// On codes      where the config has a stage `qad` and the 2N steps are the whole curriculum, both go on with it: one in one
//               go, the other dropped in the middle.
// Compared      the whole state (weights, moments, router, counters) bit for bit, on every rank: after N
//               steps, at the borders, after 2N. A difference ends the proof.
// Writes        output/NAME.verify-resume-whole and -cut, removed at the end, or by the next proof if
//               this one is killed. Importance is measured and text tokenised once for both.
// Time          that of 4N steps and one loading of the parent a resume.
// Ranks         every rank makes the same calls; the result is the same on all.
// Errors        N that is no half of the curriculum or less: kInput. A signal: Interrupted
//               (trainer/stop_signal.h), no verdict, and nothing is left to go on from.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/comm/comm.h"
#include "runtime/verify.h"
#include "trainer/run_config.h"

namespace nestling {

struct ResumeProof {
  int64_t steps = 0;                    // 2N
  std::vector<int64_t> cuts;            // steps done when the run was dropped
  std::optional<int64_t> frozen_after;  // steps, where choices froze within 2N
  std::vector<Check> checks;
  std::vector<std::string> covered, not_covered;
  bool ok() const;
};

// `steps`: N; absent: half of the curriculum's steps. `told` hears of every check as it is made.
ResumeProof verify_resume(const RunConfig& config, Comm& comm, std::optional<int64_t> steps,
                          const std::function<void(const Check&)>& told);

}  // namespace nestling
