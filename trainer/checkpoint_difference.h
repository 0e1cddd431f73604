// checkpoint_difference.h - a state of training in memory against one on disk, bit for bit.
//
// Ranks         every rank calls it with its state, and compares what it holds.
// Errors        a checkpoint that is damaged, or holds other tensors than the state: kInput naming it.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/checkpoint.h"

namespace nestling {

struct StateDifference {
  int64_t tensors = 0;  // compared
  int64_t bytes = 0;    // of what the rank holds of them, and of the counters
  int64_t bits = 0;     // that differ
  std::string first;    // the first tensor that differs and how many of its bits; "": none
};

StateDifference difference_from_checkpoint(const TrainingState& state, const TrainingCounters& at,
                                           const std::filesystem::path& checkpoint);

}  // namespace nestling
