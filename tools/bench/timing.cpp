#include "tools/bench/timing.h"

#include <algorithm>

#include "kernels/cuda/device_info.h"
#include "kernels/ops/adamw.h"

namespace nestling::bench {

double median(std::vector<double> x) {
  NESTLING_CHECK(!x.empty(), "the median of nothing");
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

Stopwatch::Stopwatch(Context& ctx) : ctx_(ctx) {
  if (ctx.device() != Device::kCuda) return;
  begin_.emplace();
  end_.emplace();
}

void Stopwatch::start() {
  if (begin_)
    begin_->record(ctx_);
  else
    started_ = Clock::now();
}

void Stopwatch::stop() {
  if (end_)
    end_->record(ctx_);
  else
    stopped_ = Clock::now();
}

double Stopwatch::seconds() const {
  if (begin_) return seconds_between(*begin_, *end_);
  return std::chrono::duration<double>(stopped_ - started_).count();
}

CacheFlush::CacheFlush(Context& ctx) : ctx_(ctx) {
  if (ctx.device() != Device::kCuda) return;
  memory_ = Tensor(Device::kCuda, DType::kF32, {cuda::device_info().l2_bytes});
  norm_ = Tensor(Device::kCuda, DType::kF64, {1});
}

void CacheFlush::operator()() {
  if (!memory_) return;
  const ConstView read[] = {memory_.view()};
  global_norm(ctx_, {.norm = norm_, .grads = read});
}

double median_seconds(Context& ctx, CacheFlush& flush, const std::function<void()>& call,
                      double longest) {
  constexpr int kLeast = 5, kMost = 50;
  Stopwatch watch(ctx);
  std::vector<double> seconds;
  double spent = 0;
  call();
  ctx.synchronize();
  for (int i = 0; i < kLeast || (spent < longest && i < kMost); ++i) {
    flush();
    watch.start();
    call();
    watch.stop();
    ctx.synchronize();
    seconds.push_back(watch.seconds());
    spent += seconds.back();
  }
  return median(seconds);
}

}  // namespace nestling::bench
