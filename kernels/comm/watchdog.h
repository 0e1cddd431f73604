// watchdog.h - ends a process that waits for its peers longer than the timeout.
//
// What MPI cannot see, a rank that is alive and never makes the call its peers wait in, would block
// them for ever. A thread looks at the clock; it never calls MPI: it says which call was waited in
// and leaves the process, upon which the launcher ends the other ranks. Calls whose work goes on
// after they returned, on a device, are asked after by the same thread.
#pragma once
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/comm/call.h"

namespace nestling {

// Where calls go on after they returned.
class Watched {
 public:
  struct UnderWay {
    Call call;
    std::chrono::steady_clock::time_point since;
    std::string failure;  // why it will never end; empty: nothing is known to be wrong
  };

  virtual ~Watched() = default;
  // Of the calls that have not ended. Called by the watchdog's thread.
  virtual std::optional<UnderWay> oldest() noexcept = 0;
};

class Watchdog {
 public:
  Watchdog(int rank, int size, double timeout_seconds);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void watch(Watched& watched);
  void forget(Watched& watched) noexcept;  // it is not called from here on

  // Armed while it lives.
  class Guard {
   public:
    Guard(Watchdog& watchdog, const Call& call) : watchdog_(watchdog) { watchdog_.arm(call); }
    ~Guard() { watchdog_.disarm(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Watchdog& watchdog_;
  };

 private:
  using Clock = std::chrono::steady_clock;
  void arm(const Call& call);
  void disarm();
  void run();
  void look_at(Watched& watched);
  [[noreturn]] void leave(const std::string& what) const;

  int rank_;
  int size_;
  double timeout_seconds_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  bool armed_ = false;
  Clock::time_point since_;
  Call call_;
  std::vector<Watched*> watched_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace nestling
