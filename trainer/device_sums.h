// device_sums.h - f64 sums that a step adds to on its device and reads once, at its end.
//
// Null device   nothing is held; what is read are zeros.
// Ownership     owns the sums. Threads: one.
#pragma once
#include <vector>

#include "kernels/core/tensor.h"

namespace nestling {

class DeviceSums {
 public:
  DeviceSums(Device device, int64_t count) : sums_(device, DType::kF64, {count}) {}

  void clear() { fill_zero(sums_); }
  View at(int64_t i) { return sums_.view().slice(0, i, 1); }
  // Waits for the device.
  std::vector<double> read() const {
    std::vector<double> host(static_cast<size_t>(sums_.size()));
    copy(View(reinterpret_cast<std::byte*>(host.data()), DType::kF64, Device::kCpu, {sums_.size()}),
         sums_);
    return host;
  }

 private:
  Tensor sums_;
};

}  // namespace nestling
