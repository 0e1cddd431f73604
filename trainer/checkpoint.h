// checkpoint.h - the state of training on disk: whole or absent, resumable bit for bit.
//
// Layout        checkpoints/step-000123/: rank-0.state (tensors), manifest.json (the entries, their
//               CRC-32C, the counters), and the file `latest` naming the newest whole one.
// Saving        written aside, synced, manifest with checksums, renamed, `latest` moved, then pruned:
//               at least `keep` (never below two) verified checkpoints stay. Rank 0 writes.
// Parts         a state is saved and loaded part after part, each whole in memory in turn: what ranks hold a share of
//               each is brought together for it. Files know no ranks: any number of them may resume.
// Loading       `latest`, or the newest checkpoint that verifies if that one is damaged, said aloud.
//               A folder that holds checkpoints, none of which verifies, is an error: a run never
//               restarts from step 0 unasked.
// Machine       ranks, threads, instruction set and libraries are recorded; a difference is named on resume.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/comm/comm.h"
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
  View view;  // dense
};

struct StatePart {
  std::vector<NamedState> tensors;  // may lie where another part's lie
  // Called by every rank: before the tensors are read, and after they were filled.
  std::function<void()> gather = nullptr, spread = nullptr;
};
using TrainingState = std::vector<StatePart>;

struct CheckpointMeta {
  TrainingCounters counters;
  std::map<std::string, std::string> layout;  // "ranks": "1", "threads": "2", "cpu_isa": "avx512"
  std::map<std::string, std::string> inputs;  // "parent": "crc32c:0123abcd": what was read
  std::string config;                         // the effective config
};

class CheckpointStore {
 public:
  CheckpointStore(std::filesystem::path directory, int64_t keep);

  // Called by every rank of `comm`.
  void save(const CheckpointMeta& meta, const TrainingState& state, Comm& comm);
  // Fills the state, by the tensors' names; nothing there: empty. `said` receives what a person should know
  // (differences of layout, a damaged checkpoint passed over).
  std::optional<CheckpointMeta> load(const TrainingState& state,
                                     std::vector<std::string>& said) const;
  // Checks every byte of one checkpoint against its manifest; the reason, or "".
  static std::string verify(const std::filesystem::path& checkpoint);
  std::vector<std::filesystem::path> list() const;  // oldest first

 private:
  std::filesystem::path directory_;
  int64_t keep_;
};

}  // namespace nestling
