// profile.h - how long decoding steps take at many widths, layer by layer, and what follows of it.
//
// Steps         those of a Decoder (runtime/decoder.h): its prompt is random, its tokens are drawn
//               at temperature 1, so that experts change as in use. A visit of a size prefills,
//               takes steps that warm up, and times those whose last fills the caches up to
//               `context`; its result is their median.
// Parts         by the spans of a step (tools/span_timer.h): of each kind of layer, all its layers
//               together; the rest is the step and the draw without them, and so holds what the
//               timer itself takes, some hundred nanoseconds a layer.
// Whole models  without a timer in between: from a step's beginning until its token is drawn.
// Rounds        each visits everything once, in turns from either end, so that a machine that gets
//               slower or busier does so for all; at least kRounds, until `seconds` are over.
// Pace          of a round: the geometric mean of its visits' steps. Times are put at the median
//               pace of all rounds, as a shared machine changes its speed from second to second.
//               Given are the median of the rounds and their spread: half of what lies between the
//               quartiles, as a share of the median; and the spread of the pace itself.
// Determinism   none: times.
#pragma once
#include <functional>

#include "runtime/latency_grid.h"
#include "runtime/latency_table.h"
#include "runtime/loaded_model.h"

namespace nestling {

struct ProfileOptions {
  int64_t context = 512;
  int64_t batch = 1;
  double seconds = 60;
  std::vector<double> shares = kLatencyShares;       // of every axis, falling from 1
  std::function<void(const std::string&)> say = {};  // a line a round
};
inline constexpr int64_t kLeastContext = 16;

// Whole models that are measured are the sizes of an elastic file; of a model of one size those
// held out.
LatencyTable profile_model(Context& ctx, LoadedModel& model, const ProfileOptions& options);

}  // namespace nestling
