// place.h - where an operator test runs and in which activations: the CPU's f32, a device's f32 and bf16.
#pragma once
#include <gtest/gtest.h>
#include <string>

#include "kernels/core/view.h"

namespace nestling::testing {

struct Place {
  Device device;
  DType dtype;
};

inline const auto kPlaces =
    ::testing::Values(Place{Device::kCpu, DType::kF32}, Place{Device::kCuda, DType::kF32},
                      Place{Device::kCuda, DType::kBF16});

inline std::string place_name(const ::testing::TestParamInfo<Place>& test) {
  return str(device_name(test.param.device), "_", dtype_name(test.param.dtype));
}

}  // namespace nestling::testing
