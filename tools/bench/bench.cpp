#include "tools/bench/bench.h"

#include <algorithm>

#include "tools/bench/operands.h"

namespace nestling::bench {

std::string Types::name() const {
  return dtype_name(weight);
}

std::string part_of(int64_t whole, int64_t part) {
  return part == 1 ? str(whole) : str(whole / part, "/", whole);
}

Bench::Bench(Context& ctx, Scale scale, const Peaks& peaks, double longest,
             std::function<void(const Result&)> done)
    : ctx_(ctx),
      scale_(scale),
      peaks_(peaks),
      longest_(longest),
      done_(std::move(done)),
      flush_(ctx) {}

void Bench::keep(const Result& r) {
  results_.push_back(r);
  done_(r);
}

double Bench::product_peak_beside(bool bf16) const {
  constexpr double kLongest = 0.03;
  if (scale_ != Scale::kCpu) return bf16 ? peaks_.bf16_gflops : peaks_.f32_gflops;
  return product_peak(bf16, kLongest);
}

double Bench::seconds(const std::function<void(Context&)>& call) {
  const auto one = [&] { call(ctx_); };
  return device() == Device::kCuda ? median_seconds(ctx_, flush_, one, longest_)
                                   : best_seconds(one, longest_);
}

void Bench::refuse(const Case& c, const std::string& reason) {
  keep({.of = c, .refused = reason});
}

double Bench::measure(const Case& c, const std::function<void(Context&)>& call) {
  const bool fp8 = c.dtype == dtype_name(DType::kF8E4M3);
  const bool bf16 = fp8 || c.dtype == dtype_name(DType::kBF16);
  Result r{.of = c};
  double took = 0;
  double product = 0;
  Work work;
  try {
    ctx_.reset_work();
    call(ctx_);
    work = ctx_.total_work();
    ctx_.synchronize();
    const bool products = c.bound != BoundBy::kMemory;
    if (products) product = product_peak_beside(bf16);
    took = seconds(call);
    if (products) product = std::max(product, product_peak_beside(bf16));
  } catch (const Error& e) {
    refuse(c, e.what());
    return 0;
  }
  r.ms = took * 1e3;
  r.gflops = work.flops / took * 1e-9;
  r.gbytes_s = work.bytes / took * 1e-9;
  const double of_product = product > 0 ? r.gflops / product : 0;
  const double of_memory = c.bound != BoundBy::kProduct ? r.gbytes_s / peaks_.copy_gbytes_s : 0;
  r.memory_bound = of_memory > of_product;
  r.share_of_peak = std::max(of_product, of_memory);
  r.peak = r.memory_bound ? peaks_.copy_gbytes_s : product;
  keep(r);
  return r.gflops;
}

std::vector<Types> Bench::types() const {
  const DType low = device() == Device::kCuda ? DType::kBF16 : DType::kF32;
  return {{}, {.act = low, .weight = DType::kBF16}};
}

std::vector<DType> Bench::activations() const {
  if (device() == Device::kCuda) return {DType::kF32, DType::kBF16};
  return {DType::kF32};
}

std::vector<int64_t> Bench::parts() const {
  if (scale_ == Scale::kCpu) return {1};
  return {1, 2};
}

Tensor Bench::random(std::initializer_list<int64_t> shape, DType dtype) {
  return random_tensor(device(), dtype, shape, rng_);
}

Tensor Bench::zeros(std::initializer_list<int64_t> shape, DType dtype) const {
  return Tensor(device(), dtype, shape);
}

Tensor Bench::integers(std::initializer_list<int64_t> shape,
                       const std::vector<int32_t>& values) const {
  Tensor t = zeros(shape, DType::kI32);
  const ConstView host(reinterpret_cast<const std::byte*>(values.data()), DType::kI32, Device::kCpu,
                       {std::ssize(values)});
  copy(t.view().reshape({t.size()}), host);
  return t;
}

Tensor Bench::draws(std::initializer_list<int64_t> shape, int64_t below) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  std::vector<int32_t> values(static_cast<size_t>(n));
  for (int32_t& x : values) x = static_cast<int32_t>(rng_.below(static_cast<uint64_t>(below)));
  return integers(shape, values);
}

}  // namespace nestling::bench
