// training_run.h - what every kind of training run shares: its folder, its checkpoints and the config they
// were made with, its batches, its log, the signals that end it.
//
// Alone         a second run in the folder is refused, kInput, as long as the first is at work (folder_lock.h).
// Leftovers     files that a killed run was writing aside are removed when the next one begins.
// Writes        dir()/config.yaml (effective), log.jsonl, TensorBoard events, checkpoints/, shards/.
// Signals       SIGTERM and SIGINT are noted from the constructor on (stop_signal.h).
// Ranks         rank 0 writes and speaks, but for checkpoints, of which each writes its part; every rank calls the same
//               functions in the same order.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/batches.h"
#include "data/folder_lock.h"
#include "data/tokenizer.h"
#include "kernels/comm/comm.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/log.h"
#include "trainer/stop_signal.h"
#include "trainer/training_text.h"

namespace nestling {

// Whether a run may resume under another config or other inputs than its checkpoint's.
enum class ConfigChange : uint8_t { kRefused, kAllowed };

struct RunSettings {
  std::string name, output;  // the folder is output/name
  std::string tokenizer;     // directory with tokenizer.json
  std::string config;        // effective, as YAML
  Device device = Device::kCpu;
  CheckpointConfig checkpoint;
  bool tensorboard = true;
  uint64_t seed = 42;
};

// Of a config; `tokenizer`: a directory.
template <class Config>  // PretrainConfig, RunConfig
RunSettings run_settings(const Config& c, const std::string& tokenizer) {
  return {.name = c.name,
          .output = c.output,
          .tokenizer = tokenizer,
          .config = dump_config(c),
          .device = parse_device(c.device),
          .checkpoint = c.checkpoint,
          .tensorboard = c.log.tensorboard,
          .seed = c.seed};
}

// The token that ends a document; kInput naming the directory where the tokenizer has none.
int32_t end_of_text(const Tokenizer& tokenizer, const std::string& directory);

class TrainingRun {
 public:
  TrainingRun(RunSettings settings, Comm& comm, ConfigChange change);

  const std::filesystem::path& dir() const { return dir_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool writes() const { return comm_.rank() == 0; }
  void say(const std::string& line) const;
  // At its first call on a CUDA device: who holds its memory. To be called once all of it is taken.
  void tell_memory(const Context& ctx);
  RunLog& log() { return log_; }

  // Tokenises what is not in the cache yet; Interrupted where told to stop.
  Batches batches(const std::vector<SourceConfig>& sources, int64_t seq_len, uint64_t seed);
  // A text by itself, of which the first `tokens` are to be scored; kInput where it has fewer.
  Batches held_out(const TextConfig& text, int64_t tokens, int64_t seq_len);
  // Calls `score` with this rank's part of the first `sequences`, at most `micro_batch` at a time. All ranks
  // together have each once that `counts`, whatever their number. All make the same number of calls, as a forward may be
  // a collective: a rank with less to score than others does a sequence again, which does not count.
  void each_held_out(Batches& text, int64_t sequences, int64_t micro_batch,
                     const std::function<void(const Batch&, bool counts)>& score) const;
  // This rank's micro-batches of `sequences` sequences from `position` on; micro-batch i of all ranks is
  // one run of consecutive sequences.
  std::vector<Batch> load(Batches& source, int64_t position, int64_t sequences,
                          int64_t micro_batch) const;

  // What training reads, by name to its digest: every source that batches() made, "text PATH", and what is named here.
  // A checkpoint holds them; a run whose inputs are others is refused as one with another config is.
  void input(const std::string& name, const std::string& digest) { inputs_[name] = digest; }
  const std::map<std::string, std::string>& inputs() const { return inputs_; }
  // What equal bits depend on beside them.
  std::map<std::string, std::string> layout() const;

  // Writes config.yaml, fills `state` from the newest checkpoint if there is one. False: a fresh run.
  // `fits` sees what was loaded before anything is written, and throws where the run cannot go on with it.
  bool begin(
      const TrainingState& state,
      const std::function<void(const TrainingCounters&)>& fits = [](const TrainingCounters&) {});
  void save(const TrainingState& state);
  // Saves if the checkpoint interval has passed.
  void save_if_due(const TrainingState& state);
  bool saved() const { return saved_at_ == at.tokens; }
  // True when any rank was told to stop; the run should save and end with kInterrupted.
  bool interrupted(Context& ctx) { return any_told_to_stop(ctx, comm_); }

  TrainingCounters at;  // saved and restored with the state

 private:
  void accept_config(const CheckpointMeta& meta);
  void accept_inputs(const CheckpointMeta& meta);
  void tell_change(const TrainingCounters& from, const std::string& what);

  RunSettings settings_;
  std::map<std::string, std::string> inputs_;
  Comm& comm_;
  ConfigChange change_;
  std::filesystem::path dir_;
  std::unique_ptr<FolderLock> lock_;  // of rank 0; before anything is written
  Tokenizer tokenizer_;
  CheckpointStore checkpoints_;
  RunLog log_;
  int64_t saved_at_ = 0;
  bool memory_told_ = false;
};

}  // namespace nestling
