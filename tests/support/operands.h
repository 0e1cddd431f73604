// operands.h - operands for operator tests: random, pitched, with poisoned surroundings.
//
// A Guarded holds a matrix as a window inside a larger one filled with a sentinel, so that a kernel
// that ignores the pitch, or writes outside its view, is caught. Outputs start as NaN.
#pragma once
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"
#include "kernels/reference/mat.h"

namespace nestling::testing {

using reference::Mat;

inline constexpr float kSentinel = -7.0e8f;

inline Mat<double> random_mat(Rng& rng, int64_t rows, int64_t cols, double scale = 1.0) {
  Mat<double> m(rows, cols);
  // Rounded to float so that the reference and the kernel read the same numbers.
  for (auto& x : m.v) x = static_cast<float>(scale * rng.normal());
  return m;
}

class Guarded {
 public:
  // rows x cols window with `gap` sentinel columns behind every row and a guard row on both ends.
  Guarded(Device device, int64_t rows, int64_t cols, int64_t gap = 3)
      : host_(Device::kCpu, DType::kF32, {rows + 2, cols + gap}), rows_(rows), cols_(cols) {
    for (int64_t i = 0; i < host_.size(); ++i) host_.ptr<float>()[i] = kSentinel;
    fill(std::numeric_limits<float>::quiet_NaN());
    if (device == Device::kCuda) {
      device_ = Tensor(device, DType::kF32, {rows + 2, cols + gap});
      copy(device_.view(), host_.view());
    }
  }
  Guarded(Device device, const Mat<double>& m, int64_t gap = 3)
      : Guarded(device, m.rows, m.cols, gap) {
    set(m);
  }
  void set(const Mat<double>& m) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = static_cast<float>(m(r, c));
    upload();
  }
  void fill(float value) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = value;
    upload();
  }
  View view() { return window(device_ ? device_.view() : host_.view()); }
  View row() { return view().reshape({cols_}); }  // a one-row operand as a vector

  Mat<double> read() {
    if (device_) copy(host_.view(), device_.view());
    Mat<double> m(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) m(r, c) = at(r, c);
    return m;
  }
  // Fails the test if anything outside the window was written.
  void expect_guards_intact(const char* name) {
    if (device_) copy(host_.view(), device_.view());
    const int64_t pitch = host_.view().dim(1);
    for (int64_t r = 0; r < rows_ + 2; ++r)
      for (int64_t c = 0; c < pitch; ++c) {
        const bool inside = r >= 1 && r <= rows_ && c < cols_;
        if (inside) continue;
        ASSERT_EQ(host_.ptr<float>()[r * pitch + c], kSentinel)
            << name << " was written outside its view at row " << r - 1 << ", column " << c;
      }
  }

 private:
  View window(View all) const { return all.slice(0, 1, rows_).prefix(1, cols_); }
  float& at(int64_t r, int64_t c) { return host_.ptr<float>()[(r + 1) * host_.view().dim(1) + c]; }
  void upload() {
    if (device_) copy(device_.view(), host_.view());
  }
  Tensor host_;
  Tensor device_;
  int64_t rows_;
  int64_t cols_;
};

inline double norm(const Mat<double>& m) {
  double s = 0;
  for (double x : m.v) s += x * x;
  return std::sqrt(s);
}

// ||got - want|| <= bound * ||want|| + floor, with no NaN. `bound` comes from a formula at the
// call.
inline void expect_close(const char* name, const Mat<double>& got, const Mat<double>& want,
                         double bound, double floor = 0.0) {
  ASSERT_EQ(got.rows, want.rows) << name;
  ASSERT_EQ(got.cols, want.cols) << name;
  double error = 0;
  double worst = -1;
  int64_t at = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i]))
        << name << "[" << i / got.cols << "," << i % got.cols << "] = " << got[i];
    const double d = std::abs(got[i] - want[i]);
    error += d * d;
    if (d > worst) {
      worst = d;
      at = i;
    }
  }
  error = std::sqrt(error);
  EXPECT_LE(error, bound * norm(want) + floor)
      << name << ": relative error " << error / norm(want) << " exceeds " << bound << "; worst at ["
      << at / got.cols << "," << at % got.cols << "]: " << got[at] << " for " << want[at];
}

// Unit roundoff of float32: sums of n terms err by about sqrt(n) * kEps32 relative to their norm.
inline constexpr double kEps32 = 0x1.0p-24;

}  // namespace nestling::testing
