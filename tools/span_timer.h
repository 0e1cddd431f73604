// span_timer.h - what the spans of a context cost: seconds, work as the operators count it, how often.
//
// Time          on CUDA by events on the context's stream, so a span is as long as the device was at it,
//               waits for the host included; elsewhere by the clock.
// Names         of nested spans are joined: "teacher/moe forward". A span holds those inside it.
// Its own work  a span that begins and ends takes some hundred nanoseconds of the host outside its own time, which are
//               in the time of the span around it; names are joined when the costs are taken.
// Ownership     watches the context while it lives.
#pragma once
#include <exception>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/span.h"
#include "tools/bench/timing.h"

namespace nestling {

struct SpanCost {
  double seconds = 0;
  Work work;          // of the operators; its calls are theirs
  int64_t calls = 0;  // of the span
};
using SpanCosts = std::map<std::string, SpanCost>;

class SpanTimer final : public SpanObserver {
 public:
  explicit SpanTimer(Context& ctx);
  ~SpanTimer() override;
  SpanTimer(const SpanTimer&) = delete;
  SpanTimer& operator=(const SpanTimer&) = delete;

  void begin(std::string_view name) override;
  void end() noexcept override;
  // What has begun and ended since the last call; waits for the device. No span may be open.
  SpanCosts take();

 private:
  struct Record {
    std::string_view name;   // a literal (span.h)
    size_t outer;            // the record of the span around it, or kNone
    bench::Stopwatch watch;  // made once, then used again
    Work work;
  };

  static constexpr size_t kNone = static_cast<size_t>(-1);
  std::string joined_name(const Record& record) const;

  Context& ctx_;
  std::vector<Record> records_;
  size_t used_ = 0;           // of the records, since the last take()
  std::vector<size_t> open_;  // the innermost last
  std::exception_ptr failure_;
};

}  // namespace nestling
