// checkpoint.h - the state of training on disk: whole or absent, resumable bit for bit.
//
// Layout        checkpoints/step-000123/: rank-0.state (tensors), manifest.json (the entries, their
//               CRC-32C, the counters), and the file `latest` naming the newest whole one.
// Saving        written aside, synced, manifest with checksums, renamed, `latest` moved, then pruned:
//               at least `keep` (never below two) verified checkpoints stay.
// Loading       `latest`, or the newest checkpoint that verifies if that one is damaged, said aloud.
//               A folder that holds checkpoints, none of which verifies, is an error: a run never
//               restarts from step 0 unasked.
// Machine       ranks, threads, instruction set and libraries are recorded; a difference is named on resume.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/view.h"

namespace nestling {

struct TrainingCounters {
  int64_t step = 0;      // optimizer steps done, skipped ones included
  int64_t updates = 0;   // steps that changed weights: AdamW's t
  int64_t tokens = 0;    // seen
  int64_t position = 0;  // next global sequence
  int64_t skipped = 0;   // steps dropped for NaN or Inf
};

struct NamedState {
  std::string name;
  View view;  // CPU; dense
};

struct CheckpointMeta {
  TrainingCounters counters;
  std::map<std::string, std::string> layout;  // "ranks": "1", "threads": "2", "cpu_isa": "avx512"
  std::map<std::string, std::string> inputs;  // "parent": "crc32c:0123abcd": what was read
  std::string config;                         // the effective config
};

class CheckpointStore {
 public:
  CheckpointStore(std::filesystem::path directory, int64_t keep);

  void save(const CheckpointMeta& meta, const std::vector<NamedState>& tensors);
  // Fills the tensors; nothing there: empty. `said` receives what a person should know (differences
  // of layout, a damaged checkpoint passed over).
  std::optional<CheckpointMeta> load(const std::vector<NamedState>& tensors,
                                     std::vector<std::string>& said) const;
  // Checks every byte of one checkpoint against its manifest; the reason, or "".
  static std::string verify(const std::filesystem::path& checkpoint);
  std::vector<std::filesystem::path> list() const;  // oldest first

 private:
  std::filesystem::path directory_;
  int64_t keep_;
};

}  // namespace nestling
