// half_operands.h - bf16 operands in the manner of Guarded: a window with sentinels around it.
#pragma once
#include "tests/support/operands.h"

namespace nestling::testing {

// As the kernels round operands of bf16 products.
inline Mat<double> rounded(Mat<double> m) {
  for (auto& x : m.v) x = static_cast<float>(bf16(static_cast<float>(x)));
  return m;
}

// Unit roundoff of bf16: what rounding a result to bf16 adds, relative.
inline constexpr double kEpsHalf = 0x1.0p-8;

// The values are rounded to bf16. Without a device: CPU memory.
class GuardedHalf {
 public:
  GuardedHalf(Device device, int64_t rows, int64_t cols, int64_t gap = 3)
      : host_(Device::kCpu, DType::kBF16, {rows + 2, cols + gap}), rows_(rows), cols_(cols) {
    for (int64_t i = 0; i < host_.size(); ++i) host_.ptr<bf16>()[i] = bf16(kSentinel);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) at(r, c) = bf16(std::numeric_limits<float>::quiet_NaN());
    if (device == Device::kCuda) device_ = Tensor(device, DType::kBF16, {rows + 2, cols + gap});
    upload();
  }
  GuardedHalf(int64_t rows, int64_t cols, int64_t gap = 3)
      : GuardedHalf(Device::kCpu, rows, cols, gap) {}
  GuardedHalf(Device device, const Mat<double>& m, int64_t gap = 3)
      : GuardedHalf(device, m.rows, m.cols, gap) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = bf16(static_cast<float>(m(r, c)));
    upload();
  }
  explicit GuardedHalf(const Mat<double>& m, int64_t gap = 3) : GuardedHalf(Device::kCpu, m, gap) {}
  View view() {
    return (device_ ? device_.view() : host_.view()).slice(0, 1, rows_).prefix(1, cols_);
  }
  Mat<double> read() {
    download();
    Mat<double> m(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) m(r, c) = static_cast<float>(at(r, c));
    return m;
  }
  void expect_guards_intact(const char* name) {
    download();
    const int64_t pitch = host_.view().dim(1);
    for (int64_t r = 0; r < rows_ + 2; ++r)
      for (int64_t c = 0; c < pitch; ++c) {
        const bool inside = r >= 1 && r <= rows_ && c < cols_;
        if (inside) continue;
        ASSERT_EQ(host_.ptr<bf16>()[r * pitch + c].bits, bf16(kSentinel).bits)
            << name << " was written outside its view at row " << r - 1 << ", column " << c;
      }
  }

 private:
  bf16& at(int64_t r, int64_t c) { return host_.ptr<bf16>()[(r + 1) * host_.view().dim(1) + c]; }
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
