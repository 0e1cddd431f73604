#include "tools/bench/device_peaks.h"

#include <algorithm>
#include <array>
#include <span>

#include "kernels/core/rng.h"
#include "kernels/cuda/product_ceiling.h"
#include "tools/bench/operands.h"
#include "tools/bench/timing.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t m, n, k;
};
constexpr std::array kLarge = {Shape{4096, 4096, 4096}, Shape{8192, 8192, 8192},
                               Shape{16384, 8192, 8192}};
constexpr std::array kTiny = {Shape{64, 64, 64}};

double product_gflops(Context& ctx, std::span<const Shape> shapes, DType dtype,
                      cuda::ProductMath math) {
  Rng rng(1);
  double best = 0;
  for (const Shape& s : shapes) {
    const Tensor a = random_tensor(Device::kCuda, dtype, {s.m, s.k}, rng);
    const Tensor b = random_tensor(Device::kCuda, dtype, {s.n, s.k}, rng);
    Tensor d(Device::kCuda, dtype, {s.m, s.n});
    const double flops = 2.0 * static_cast<double>(s.m * s.n) * static_cast<double>(s.k);
    best = std::max(best, flops / cuda::best_product_seconds(ctx, d, a, b, math) * 1e-9);
  }
  return best;
}

double copy_gbytes_s(Context& ctx, int64_t bytes) {
  constexpr double kLongest = 0.05;
  const Tensor from(Device::kCuda, DType::kU8, {bytes});
  Tensor to(Device::kCuda, DType::kU8, {bytes});
  CacheFlush flush(ctx);
  const double seconds = median_seconds(
      ctx, flush, [&] { copy(to, from.view()); }, kLongest);
  return 2.0 * static_cast<double>(bytes) / seconds * 1e-9;
}

}  // namespace

Peaks measure_device_peaks(Context& ctx, bool tiny, bool f32) {
  const std::span<const Shape> shapes =
      tiny ? std::span<const Shape>(kTiny) : std::span<const Shape>(kLarge);
  const int64_t bytes = int64_t{1} << (tiny ? 16 : 30);
  using Math = cuda::ProductMath;
  return {.f32_gflops = f32 ? product_gflops(ctx, shapes, DType::kF32, Math::kAsOperands) : 0,
          .bf16_gflops = product_gflops(ctx, shapes, DType::kBF16, Math::kAsOperands),
          .bf16_native = true,
          .tf32_gflops = f32 ? product_gflops(ctx, shapes, DType::kF32, Math::kTf32) : 0,
          .copy_gbytes_s = copy_gbytes_s(ctx, bytes),
          .memory_mib = static_cast<double>(bytes) / (1 << 20)};
}

PublishedPeaks published_peaks(const std::string& card) {
  struct Row {
    const char* name;  // as the driver has it
    PublishedPeaks peaks;
  };
  static constexpr Row kCards[] = {
      {"NVIDIA H100 80GB HBM3", {66.9e3, 989.4e3, 3350}},
      {"NVIDIA H100 PCIe", {51.2e3, 756e3, 2000}},
      {"NVIDIA H200", {66.9e3, 989.4e3, 4800}},
      {"NVIDIA A100-SXM4-80GB", {19.5e3, 312e3, 2039}},
      {"NVIDIA A100-SXM4-40GB", {19.5e3, 312e3, 1555}},
  };
  for (const Row& row : kCards)
    if (card == row.name) return row.peaks;
  return {};
}

}  // namespace nestling::bench
