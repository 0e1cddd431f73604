// device_sums.h - f64 sums that a step adds to on its device and reads once, at its end.
//
// Reading       fetch() enqueues; values() are there after the context's next synchronize().
// Null device   nothing is held; the values are zeros.
// Ownership     owns the sums. Threads: one.
#pragma once
#include <vector>

#include "kernels/core/host_view.h"
#include "kernels/core/tensor.h"

namespace nestling {

class DeviceSums {
 public:
  DeviceSums(Device device, int64_t count) : sums_(device, DType::kF64, {count}) {}

  void clear() { fill_zero(sums_); }
  View at(int64_t i) { return sums_.view().slice(0, i, 1); }
  void fetch(Context& ctx) { fetched_ = nestling::fetch(ctx, sums_); }
  std::vector<double> values() const {
    std::vector<double> all(static_cast<size_t>(sums_.size()), 0.0);
    if (const auto* from = fetched_.ptr<double>()) std::copy_n(from, all.size(), all.begin());
    return all;
  }

 private:
  Tensor sums_;
  View fetched_;
};

}  // namespace nestling
