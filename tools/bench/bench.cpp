#include "tools/bench/bench.h"

namespace nestling::bench {

double Bench::measure(const Case& c, const std::function<void(Context&)>& call) {
  ctx_.reset_work();
  call(ctx_);
  const Work work = ctx_.total_work();
  const double seconds = best_seconds([&] { call(ctx_); });
  Result r{.of = c,
           .ms = seconds * 1e3,
           .gflops = work.flops / seconds * 1e-9,
           .gbytes_s = work.bytes / seconds * 1e-9};
  switch (c.bound) {
    case BoundBy::kF32Product:
      r.share_of_peak = r.gflops / peaks_.f32_gflops;
      break;
    case BoundBy::kBf16Product:
      r.share_of_peak = r.gflops / peaks_.bf16_gflops;
      break;
    case BoundBy::kMemory:
      r.share_of_peak = r.gbytes_s / peaks_.copy_gbytes_s;
      break;
  }
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
