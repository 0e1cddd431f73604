// job.h - a request on its way through the engine: what has come of it, for the thread that
// answers.
//
// Threads       the engine puts, one other thread takes; cancel from any.
// Bound         what has come and was not taken yet is at most the answer.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>

#include "runtime/server/choice_text.h"

namespace nestling {

struct JobUsage {
  int64_t prompt = 0, completion = 0;  // tokens
  int64_t thinking = 0;                // of completion
};

class Job {
 public:
  explicit Job(ServedRequest asked) : request_(std::move(asked)), open_(request_.choices()) {}
  const ServedRequest& request() const { return request_; }

  // The next piece; nullopt after `wait` without one, and when all has come: ended() tells. Throws
  // what fail() was given.
  std::optional<AnswerPiece> next(std::chrono::milliseconds wait);
  bool ended() const;
  JobUsage usage() const;
  void cancel();  // nobody waits for it any more

  bool cancelled() const;
  void put(AnswerPiece piece);                                       // of a choice that goes on
  void finish(AnswerPiece piece, int64_t tokens, int64_t thinking);  // its last one
  void fail(ServerError error);  // the first counts; one of 500 is also said on stderr

 private:
  const ServedRequest request_;
  mutable std::mutex mutex_;
  std::condition_variable came_;
  std::deque<AnswerPiece> pieces_;
  size_t open_;  // choices that go on
  JobUsage usage_;
  bool cancelled_ = false;
  std::optional<ServerError> error_;
};

}  // namespace nestling
