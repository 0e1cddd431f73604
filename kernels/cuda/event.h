// event.h - moments on a Context's stream, for timing. Built without CUDA, making one throws (absent.cpp).
//
//   begin.record(ctx); linear_forward(ctx, a); end.record(ctx);
//   const double seconds = seconds_between(begin, end);
//
// Recording     enqueues; the host does not wait. Asking for seconds waits for the later event alone, so
//               that a step's events are best read when it is over.
// Resolution    about half a microsecond.
#pragma once
#include <memory>

#include "kernels/core/context.h"

namespace nestling::cuda {

class Event {
 public:
  Event();
  void record(Context& ctx);
  // Of two recorded events of one device.
  friend double seconds_between(const Event& begin, const Event& end);

 private:
  struct Destroy {
    void operator()(void* event) const noexcept;
  };
  std::unique_ptr<void, Destroy> event_;
};
double seconds_between(const Event& begin, const Event& end);

}  // namespace nestling::cuda
