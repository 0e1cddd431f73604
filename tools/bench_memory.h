// bench_memory.h - memory of one optimizer step of elastic distillation, on random tokens.
#pragma once
#include <string>
#include <vector>

namespace nestling {

struct BenchMemoryOptions {
  std::string config;            // YAML of an elastic run
  std::vector<std::string> set;  // overrides, as of `nestling run`
  std::string mode = "mask";     // mask, or slice: as with choices frozen
  std::string size;              // drawn; empty: the first
  int64_t seq_len = 2048;        // one sequence
  bool json = false;
};

// One size, one micro-batch of one sequence, one step, in a process of its own: peak resident memory is of
// the process. Prints it, what was resident before the step, the pools by their own count, the step's
// seconds and work.
int bench_memory(const BenchMemoryOptions& options);

}  // namespace nestling
