// guarded_bytes.h - codes of a byte each in the manner of Guarded: a window among bytes that are not to change.
#pragma once
#include <cstring>

#include "tests/support/operands.h"

namespace nestling::testing {

class GuardedBytes {
 public:
  // All bytes are `fill`, those of the window too.
  GuardedBytes(Device device, DType dtype, int64_t rows, int64_t cols, int64_t gap, uint8_t fill)
      : host_(Device::kCpu, dtype, {rows + 2, cols + gap}), rows_(rows), cols_(cols), fill_(fill) {
    std::memset(host_.view().data(), fill_, static_cast<size_t>(host_.size()));
    if (device == Device::kCuda) device_ = Tensor(device, dtype, {rows + 2, cols + gap});
    upload();
  }
  GuardedBytes(Device device, DType dtype, const Mat<int>& values, int64_t gap, uint8_t fill)
      : GuardedBytes(device, dtype, values.rows, values.cols, gap, fill) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = static_cast<std::byte>(values(r, c));
    upload();
  }
  View view() {
    return (device_ ? device_.view() : host_.view()).slice(0, 1, rows_).prefix(1, cols_);
  }
  Mat<int> read() {
    download();
    Mat<int> m(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) m(r, c) = std::to_integer<int>(at(r, c));
    return m;
  }
  void expect_guards_intact() {
    download();
    const int64_t pitch = host_.view().dim(1);
    for (int64_t i = 0; i < host_.size(); ++i) {
      const int64_t r = i / pitch - 1;
      if (r >= 0 && r < rows_ && i % pitch < cols_) continue;
      ASSERT_EQ(std::to_integer<int>(host_.view().data()[i]), fill_)
          << "row " << r << ", column " << i % pitch;
    }
  }

 private:
  std::byte& at(int64_t r, int64_t c) {
    return host_.view().data()[(r + 1) * host_.view().dim(1) + c];
  }
  void upload() {
    if (device_) copy(device_.view(), host_.view());
  }
  void download() {
    if (device_) copy(host_.view(), device_.view());
  }
  Tensor host_, device_;
  int64_t rows_, cols_;
  uint8_t fill_;
};

}  // namespace nestling::testing
