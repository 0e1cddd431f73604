// engine.h - runs the requests of many clients together: one thread owns the model.
//
// Batches       sequences of one size are one batch (runtime/running_batch.h). Between two steps
//               those that wait join, and those that are over leave. Prompts are run in pieces, one a
//               step, beside the tokens of the others. Sizes take turns, a step of each. A sequence
//               whose other size takes over goes to that size's batch, before those that wait.
// Order         requests begin in the order they came; at most `parallel` sequences run at once, in
//               all sizes together, and at most `queue` requests wait.
// Memory        caches of `parallel` rows of `context` tokens for every size that runs, and with drafts
//               as many of the draft size beside each; those of a size that does not run are given
//               back when another one needs its own.
// Draws         choice k of every prompt is stream k of the request's seed, or has a seed of its
//               own where the request has none. What a request says depends on its prompt, rule and
//               seed alone, up to the roundings of generator.h.
// Errors        what fails in a batch fails the requests in it (500), and the engine goes on.
#pragma once
#include <deque>
#include <memory>
#include <thread>

#include "runtime/drafter.h"
#include "runtime/server/job.h"

namespace nestling {

struct EngineOptions {
  int64_t parallel = 4;
  int64_t context = 4096;
  int64_t queue = 64;
  int64_t prefill = 512;  // tokens of prompts in one forward, all sequences together
  DraftControl draft = {};
};

class Engine {
 public:
  // Borrows context and model, which are its thread's alone until it is gone: nobody else runs
  // anything in them or selects a size.
  Engine(Context& ctx, LoadedModel& model, const EngineOptions& options);
  ~Engine();  // abort()
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws ServerError 503 where the queue is full, or it was told to end.
  void submit(std::shared_ptr<Job> job);
  void drain();       // takes no more; those that wait fail (503), those that run are finished
  void abort();       // those that run fail too
  bool idle() const;  // nothing runs or waits
  int64_t running() const;
  int64_t waiting() const;

 private:
  struct Waiting {
    std::shared_ptr<Job> job;
    size_t begun = 0;  // of its choices
  };
  using Begun = std::pair<std::shared_ptr<Job>, size_t>;
  class Floor;

  void work();
  std::optional<std::vector<Begun>> take();

  Context& ctx_;
  LoadedModel& model_;
  const EngineOptions options_;
  const std::optional<Size> draft_;
  const int threads_;
  mutable std::mutex mutex_;
  std::condition_variable told_;
  std::deque<Waiting> waiting_;
  int64_t running_ = 0;  // sequences
  bool draining_ = false, aborted_ = false;
  std::thread thread_;
};

}  // namespace nestling
