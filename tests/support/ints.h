// ints.h - i32 operands for operator tests, with guarded surroundings like Guarded's.
#pragma once
#include <gtest/gtest.h>
#include <vector>

#include "kernels/core/tensor.h"

namespace nestling::testing {

inline constexpr int32_t kIntSentinel = -77777777;

// rows x cols i32 window in a larger matrix; an output starts as the sentinel, which is no id.
class GuardedInts {
 public:
  GuardedInts(Device device, int64_t rows, int64_t cols, int64_t gap = 3)
      : host_(Device::kCpu, DType::kI32, {rows + 2, cols + gap}), rows_(rows), cols_(cols) {
    for (int64_t i = 0; i < host_.size(); ++i) host_.ptr<int32_t>()[i] = kIntSentinel;
    if (device == Device::kCuda) device_ = Tensor(device, DType::kI32, {rows + 2, cols + gap});
    upload();
  }
  // A vector, as one row.
  GuardedInts(Device device, const std::vector<int32_t>& values)
      : GuardedInts(device, 1, static_cast<int64_t>(values.size())) {
    set(values);
  }
  void set(const std::vector<int32_t>& values) {
    for (int64_t i = 0; i < rows_ * cols_; ++i)
      at(i / cols_, i % cols_) = values[static_cast<size_t>(i)];
    upload();
  }
  View view() {
    return (device_ ? device_.view() : host_.view()).slice(0, 1, rows_).prefix(1, cols_);
  }
  View row() { return view().reshape({cols_}); }
  std::vector<int32_t> read() {
    download();
    std::vector<int32_t> values;
    for (int64_t i = 0; i < rows_ * cols_; ++i) values.push_back(at(i / cols_, i % cols_));
    return values;
  }
  void expect_guards_intact(const char* name) {
    download();
    const int64_t pitch = host_.view().dim(1);
    for (int64_t r = 0; r < rows_ + 2; ++r)
      for (int64_t c = 0; c < pitch; ++c) {
        if (r >= 1 && r <= rows_ && c < cols_) continue;
        ASSERT_EQ(host_.ptr<int32_t>()[r * pitch + c], kIntSentinel)
            << name << " was written outside its view at row " << r - 1 << ", column " << c;
      }
  }

 private:
  int32_t& at(int64_t r, int64_t c) {
    return host_.ptr<int32_t>()[(r + 1) * host_.view().dim(1) + c];
  }
  void upload() {
    if (device_) copy(device_.view(), host_.view());
  }
  void download() {
    if (device_) copy(host_.view(), device_.view());
  }
  Tensor host_;
  Tensor device_;
  int64_t rows_;
  int64_t cols_;
};

}  // namespace nestling::testing
