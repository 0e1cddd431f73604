// totals.h - f64 totals for operator tests: every one starts at 1, so that what is not added onto shows, and what
// lies around them must stay.
#pragma once
#include <gtest/gtest.h>
#include <vector>

#include "kernels/core/tensor.h"

namespace nestling::testing {

class Totals {
 public:
  Totals(Device device, int64_t count)
      : host_(Device::kCpu, DType::kF64, {count + 2}), device_(device, DType::kF64, {count + 2}) {
    for (int64_t i = 0; i < count + 2; ++i) host_.ptr<double>()[i] = inside(i) ? 1.0 : kGuard;
    copy(device_.view(), host_.view());
  }
  View view() { return device_.view().slice(0, 1, device_.size() - 2); }
  // What has been added; fails the test if anything around was written.
  std::vector<double> added() {
    copy(host_.view(), device_.view());
    std::vector<double> sums;
    for (int64_t i = 0; i < host_.size(); ++i) {
      const double x = host_.ptr<double>()[i];
      if (inside(i))
        sums.push_back(x - 1.0);
      else
        EXPECT_EQ(x, kGuard) << "written outside the totals";
    }
    return sums;
  }

 private:
  static constexpr double kGuard = -7e8;
  bool inside(int64_t i) const { return i > 0 && i + 1 < host_.size(); }
  Tensor host_, device_;
};

}  // namespace nestling::testing
