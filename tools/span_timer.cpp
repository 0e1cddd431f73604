#include "tools/span_timer.h"

namespace nestling {

SpanTimer::SpanTimer(Context& ctx) : ctx_(ctx) {
  ctx_.observe(this);
}

SpanTimer::~SpanTimer() {
  ctx_.observe(nullptr);
}

void SpanTimer::begin(std::string_view name) {
  if (used_ == records_.size())
    records_.push_back({.name = {}, .watch = bench::Stopwatch(ctx_), .work = {}});
  Record& r = records_[used_];
  r.name = open_.empty() ? std::string(name) : str(records_[open_.back()].name, "/", name);
  r.work = ctx_.total_work();
  open_.push_back(used_++);
  r.watch.start();
}

void SpanTimer::end() noexcept {
  try {
    Record& r = records_.at(open_.back());
    open_.pop_back();
    r.watch.stop();
    const Work now = ctx_.total_work();
    r.work = {.flops = now.flops - r.work.flops,
              .bytes = now.bytes - r.work.bytes,
              .calls = now.calls - r.work.calls};
  } catch (...) {
    failure_ = std::current_exception();
  }
}

SpanCosts SpanTimer::take() {
  if (failure_) std::rethrow_exception(failure_);
  NESTLING_CHECK(open_.empty(), "a span is still open: ", records_[open_.back()].name);
  SpanCosts costs;
  for (size_t i = 0; i < used_; ++i) {
    const Record& r = records_[i];
    SpanCost& cost = costs[r.name];
    cost.seconds += r.watch.seconds();
    cost.work.flops += r.work.flops;
    cost.work.bytes += r.work.bytes;
    cost.work.calls += r.work.calls;
    cost.calls += 1;
  }
  used_ = 0;
  return costs;
}

}  // namespace nestling
