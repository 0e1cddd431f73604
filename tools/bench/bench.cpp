#include "tools/bench/bench.h"

#include <algorithm>

namespace nestling::bench {

double Bench::peak_beside(BoundBy bound) const {
  constexpr double kLongest = 0.03;
  if (bound == BoundBy::kMemory) return peaks_.copy_gbytes_s;
  return product_peak(bound == BoundBy::kBf16Product, kLongest);
}

double Bench::measure(const Case& c, const std::function<void(Context&)>& call) {
  ctx_.reset_work();
  call(ctx_);
  const Work work = ctx_.total_work();
  const double before = peak_beside(c.bound);
  const double seconds = best_seconds([&] { call(ctx_); });
  Result r{.of = c,
           .ms = seconds * 1e3,
           .gflops = work.flops / seconds * 1e-9,
           .gbytes_s = work.bytes / seconds * 1e-9,
           .peak = std::max(before, peak_beside(c.bound))};
  r.share_of_peak = (c.bound == BoundBy::kMemory ? r.gbytes_s : r.gflops) / r.peak;
  results_.push_back(r);
  return r.gflops;
}

Tensor Bench::random(std::initializer_list<int64_t> shape, DType dtype) {
  // A short period: standard normal values repeat, which no operator's speed depends on.
  constexpr size_t kPeriod = 4099;
  std::vector<float> values(kPeriod);
  for (auto& x : values) x = static_cast<float>(rng_.normal());
  Tensor t(Device::kCpu, dtype, shape);
  for (int64_t i = 0; i < t.size(); ++i) {
    const float x = values[static_cast<size_t>(i) % kPeriod];
    if (dtype == DType::kBF16)
      t.ptr<bf16>()[i] = bf16(x);
    else
      t.ptr<float>()[i] = x;
  }
  return t;
}

}  // namespace nestling::bench
