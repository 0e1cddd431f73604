#include "runtime/server/job.h"

#include <cstdio>

namespace nestling {

std::optional<AnswerPiece> Job::next(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  came_.wait_for(lock, wait, [&] { return error_ || !pieces_.empty() || open_ == 0; });
  if (error_)  // one of its own: copies share their text, and a count of it that ThreadSanitizer does not see
    throw ServerError(error_->status(), error_->what(), error_->code(), error_->field());
  if (pieces_.empty()) return {};
  AnswerPiece piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

bool Job::ended() const {
  const std::lock_guard lock(mutex_);
  return open_ == 0 && pieces_.empty();
}

JobUsage Job::usage() const {
  const std::lock_guard lock(mutex_);
  JobUsage usage = usage_;
  for (const auto& prompt : request_.prompts) usage.prompt += std::ssize(prompt);
  return usage;
}

void Job::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
}

bool Job::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_ || error_;
}

void Job::put(AnswerPiece piece) {
  const std::lock_guard lock(mutex_);
  pieces_.push_back(std::move(piece));
  came_.notify_one();
}

void Job::finish(AnswerPiece piece, int64_t tokens, int64_t thinking) {
  const std::lock_guard lock(mutex_);
  pieces_.push_back(std::move(piece));
  usage_.completion += tokens;
  usage_.thinking += thinking;
  --open_;
  came_.notify_one();
}

void Job::fail(ServerError error) {
  if (error.status() == 500) std::fprintf(stderr, "nestling: a request failed: %s\n", error.what());
  const std::lock_guard lock(mutex_);
  if (!error_) error_.emplace(std::move(error));
  came_.notify_one();
}

}  // namespace nestling
