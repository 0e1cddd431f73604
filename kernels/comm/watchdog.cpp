#include "kernels/comm/watchdog.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace nestling {

Watchdog::Watchdog(int rank, int size, double timeout_seconds)
    : rank_(rank), size_(size), timeout_seconds_(timeout_seconds) {
  NESTLING_CHECK_INPUT(timeout_seconds > 0, "communication timeout: ", timeout_seconds,
                       " seconds, needs more than 0");
  thread_ = std::thread([this] { watch(); });
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

void Watchdog::watch() {
  const std::chrono::duration<double> period(std::min(1.0, timeout_seconds_ / 4));
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, period, [this] { return stopping_; })) {
    const std::chrono::duration<double> waited = Clock::now() - since_;
    if (armed_ && waited.count() > timeout_seconds_) leave(call_);
  }
}

void Watchdog::leave(const Call& call) const {
  std::fprintf(stderr, "rank %d of %d: waited %g s in %s (call %llu) and not every rank came\n",
               rank_, size_, timeout_seconds_, call.describe().c_str(),
               static_cast<unsigned long long>(call.number));
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(ErrorKind::kRuntime));
}

}  // namespace nestling
