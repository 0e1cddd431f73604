// Sums and counts that stay on the device, against plain loops in double.
#include "kernels/ops/sum.h"

#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

class Sum : public ::testing::TestWithParam<Device> {};

double read_double(ConstView v) {
  Tensor host(Device::kCpu, DType::kF64, {1});
  copy(host, v);
  return *host.ptr<double>();
}

TEST_P(Sum, AddsOntoTheTotal) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, AddSum);
  Context ctx(device);
  Rng rng(3);
  double want = 0;
  Tensor total(device, DType::kF64, {1});
  for (const int64_t n : {1, 31, 5000}) {
    const auto m = random_mat(rng, 1, n);
    Guarded x(device, m);
    add_sum(ctx, {.total = total, .x = x.row()});
    for (const double v : m.v) want += v;
    // n additions in double of terms of about 1, in any order.
    EXPECT_NEAR(read_double(total), want, static_cast<double>(n * n) * 0x1.0p-53) << n;
  }
}

TEST_P(Sum, CountsRowsOntoTheCounts) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, CountRows);
  Context ctx(device);
  Tensor host(Device::kCpu, DType::kI32, {4}), counts_host(Device::kCpu, DType::kF64, {3});
  const int32_t offsets[] = {0, 5, 5, 12};
  std::copy_n(offsets, 4, host.ptr<int32_t>());
  Tensor at(device, DType::kI32, {4}), counts(device, DType::kF64, {3});
  copy(at, host.view());
  for (int i = 0; i < 2; ++i) count_rows(ctx, {.counts = counts, .offsets = at});
  copy(counts_host, counts.view());
  const double want[] = {10, 0, 14};
  for (int e = 0; e < 3; ++e) EXPECT_EQ(counts_host.ptr<double>()[e], want[e]);
}

INSTANTIATE_TEST_SUITE_P(All, Sum, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return device_name(test.param); });

}  // namespace
}  // namespace nestling
