// log.h - what a run tells: log.jsonl, TensorBoard events, a progress line.
//
// Files         under the run's folder, appended to: a resumed run goes on in the same files. Every
//               line is flushed; a reader tolerates a cut tail. Rank 0 writes, the others are silent.
// TensorBoard   event files (records with masked CRC-32C), without protobuf.
// Progress      one line rewritten on a terminal, plain lines otherwise: step, loss, rate, time left.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>

namespace nestling {

struct LogRecord {
  int64_t step = 0;
  int64_t tokens = 0;                     // seen so far
  std::map<std::string, double> scalars;  // "loss", "valid/english/loss", "lr", ...
  std::string event;  // "" for a plain record; else what happened ("skipped step")
};

class RunLog {
 public:
  // `writes` false: a rank that only counts.
  RunLog(const std::filesystem::path& run_dir, bool tensorboard, bool writes);
  ~RunLog();
  void write(const LogRecord& record);
  void text(const std::string& tag, const std::string& text);  // config and the like, once
  // total_tokens 0: length unknown.
  void progress(int64_t step, int64_t tokens, int64_t total_tokens, double loss,
                double tokens_per_second);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nestling
