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
    records_.push_back({.name = {}, .outer = kNone, .watch = bench::Stopwatch(ctx_), .work = {}});
  Record& r = records_[used_];
  r.name = name;
  r.outer = open_.empty() ? kNone : open_.back();
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

std::string SpanTimer::joined_name(const Record& record) const {
  if (record.outer == kNone) return std::string(record.name);
  return joined_name(records_[record.outer]) + "/" + std::string(record.name);
}

SpanCosts SpanTimer::take() {
  if (failure_) std::rethrow_exception(failure_);
  NESTLING_CHECK(open_.empty(), "a span is still open: ", joined_name(records_[open_.back()]));
  SpanCosts costs;
  for (size_t i = 0; i < used_; ++i) {
    const Record& r = records_[i];
    SpanCost& cost = costs[joined_name(r)];
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
