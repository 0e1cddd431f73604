// timing.h - how long calls on a Context take.
//
// CPU           the clock.
// CUDA          events on the context's stream: of what the device does, once it has been reached; how long
//               the host takes to enqueue shows only where the device runs dry.
#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/tensor.h"
#include "kernels/cuda/event.h"

namespace nestling::bench {

double median(std::vector<double> x);  // the upper one of an even number

// Between start() and stop(); neither waits. seconds() waits for the stop.
class Stopwatch {
 public:
  explicit Stopwatch(Context& ctx);
  void start();
  void stop();
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  Context& ctx_;
  std::optional<cuda::Event> begin_, end_;  // on CUDA
  Clock::time_point started_, stopped_;
};

// Before every call of a CUDA context's, so that no operand is found in the L2 cache: four times its size is read. (Were
// it written, the call would wait for what it displaces to go to memory.) On the CPU nothing: best_seconds
// (kernels/core/peaks.h) measures there.
class CacheFlush {
 public:
  explicit CacheFlush(Context& ctx);
  void operator()();

 private:
  Context& ctx_;
  Tensor memory_, norm_;
};

// Of one call on CUDA: the median of at least five, of as many as `longest` seconds hold, of at most fifty;
// after one that warms up.
double median_seconds(Context& ctx, CacheFlush& flush, const std::function<void()>& call,
                      double longest);

}  // namespace nestling::bench
