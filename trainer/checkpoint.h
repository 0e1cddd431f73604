// checkpoint.h - the state of training on disk: whole or absent, resumable bit for bit.
//
// Layout        checkpoints/step-000123/: a file rank-R.state for every rank that saves something, manifest.json (which
//               runs of which tensors lie in them, their CRC-32C, the counters), and the file `latest` naming the newest
//               whole one.
// Saving        every rank writes its runs aside, syncs and reads them back, all at once; then rank 0 writes the manifest,
//               renames, and moves `latest`; then it prunes: at least `keep` (never below two) verified checkpoints
//               stay. Ranks share the reading.
// Loading       `latest`, or the newest checkpoint that verifies if that one is damaged, said aloud; the ranks check the
//               files between them and all take the same one. A folder that holds checkpoints, none of which verifies,
//               is an error: a run never restarts from step 0 unasked.
// Ranks         what is on disk are runs of tensors: ranks that share the state in another way, or are more or fewer,
//               find theirs in it. All of them read and write one file system.
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

// A whole tensor, dense.
struct NamedState {
  std::string name;
  View view;
};

// A run of one tensor's elements, in row-major order, as this rank holds it.
struct StateRun {
  std::string name;
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t begin = 0;
  View
      view;  // dense: elements [begin, begin + size()); of size 0 where the rank holds nothing of it
  bool saved =
      true;  // by this rank. All ranks together save every element once; all load what they hold
};
StateRun whole_run(const NamedState& tensor, bool saved);
// Every rank names every tensor.
using TrainingState = std::vector<StateRun>;

struct CheckpointMeta {
  TrainingCounters counters;
  std::map<std::string, std::string> layout;  // "ranks": "1", "threads": "2", "cpu_isa": "avx512"
  std::map<std::string, std::string> inputs;  // "parent": "crc32c:0123abcd": what was read
  std::string config;                         // the effective config
};

// Every rank of `comm` makes the same calls.
class CheckpointStore {
 public:
  CheckpointStore(std::filesystem::path directory, int64_t keep);

  void save(const CheckpointMeta& meta, const TrainingState& state, Comm& comm);
  // Fills the state, by the tensors' names; nothing there: empty. `said` receives what a person should know
  // (differences of layout, a damaged checkpoint passed over).
  std::optional<CheckpointMeta> load(const TrainingState& state, std::vector<std::string>& said,
                                     Comm& comm) const;
  std::vector<std::filesystem::path> list() const;  // oldest first

 private:
  void prune(const std::filesystem::path& verified, Comm& comm) const;

  std::filesystem::path directory_;
  int64_t keep_;
};

}  // namespace nestling
