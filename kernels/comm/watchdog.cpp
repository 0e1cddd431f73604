#include "kernels/comm/watchdog.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace nestling {

Watchdog::Watchdog(int rank, int size, double timeout_seconds)
    : rank_(rank), size_(size), timeout_seconds_(timeout_seconds) {
  NESTLING_CHECK_INPUT(timeout_seconds > 0, "communication timeout: ", timeout_seconds,
                       " seconds, needs more than 0");
  thread_ = std::thread([this] { run(); });
}

Watchdog::~Watchdog() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_one();
  thread_.join();
}

void Watchdog::arm(const Call& call) {
  const std::scoped_lock lock(mutex_);
  armed_ = true;
  since_ = Clock::now();
  call_ = call;
}

void Watchdog::disarm() {
  const std::scoped_lock lock(mutex_);
  armed_ = false;
}

void Watchdog::watch(Watched& watched) {
  const std::scoped_lock lock(mutex_);
  watched_.push_back(&watched);
}

void Watchdog::forget(Watched& watched) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(watched_, &watched);
}

void Watchdog::run() {
  const std::chrono::duration<double> period(std::min(1.0, timeout_seconds_ / 4));
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, period, [this] { return stopping_; })) {
    const std::chrono::duration<double> waited = Clock::now() - since_;
    if (armed_ && waited.count() > timeout_seconds_)
      leave(str("waited ", timeout_seconds_, " s in ", call_.name(), " and not every rank came"));
    for (Watched* watched : watched_) look_at(*watched);
  }
}

void Watchdog::look_at(Watched& watched) {
  const std::optional<Watched::UnderWay> oldest = watched.oldest();
  if (!oldest) return;
  if (!oldest->failure.empty()) leave(str(oldest->call.name(), ": ", oldest->failure));
  const std::chrono::duration<double> waited = Clock::now() - oldest->since;
  if (waited.count() > timeout_seconds_)
    leave(
        str("waited ", timeout_seconds_, " s for ", oldest->call.name(), " to end on the device"));
}

void Watchdog::leave(const std::string& what) const {
  std::fprintf(stderr, "rank %d of %d: %s\n", rank_, size_, what.c_str());
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(ErrorKind::kRuntime));
}

}  // namespace nestling
