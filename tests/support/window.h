// window.h - an operand of up to four dims cut as a prefix out of a larger tensor, for operators
// that take prefix views. The surroundings hold a sentinel and must stay; the inside starts as NaN.
// f32 or bf16; what is set is rounded to it.
#pragma once
#include <limits>
#include <vector>

#include "tests/support/operands.h"

namespace nestling::testing {

class Window {
 public:
  // Dim d is the first shape[d] of shape[d] + gaps[d]. Values are read and set as a Mat [shape[0],
  // product of the rest]; a vector as one row.
  Window(Device device, std::vector<int64_t> shape, std::vector<int64_t> gaps,
         DType dtype = DType::kF32)
      : shape_(std::move(shape)), full_(shape_) {
    for (size_t d = 0; d < shape_.size(); ++d) full_[d] += gaps[d];
    host_ = make(Device::kCpu, DType::kF32);
    for (int64_t i = 0; i < host_.size(); ++i) host_.ptr<float>()[i] = kSentinel;
    if (dtype == DType::kBF16) half_ = make(Device::kCpu, dtype);
    if (device == Device::kCuda) device_ = make(device, dtype);
    fill(std::numeric_limits<float>::quiet_NaN());
  }
  Window(Device device, std::vector<int64_t> shape, std::vector<int64_t> gaps,
         const Mat<double>& values, DType dtype = DType::kF32)
      : Window(device, std::move(shape), std::move(gaps), dtype) {
    set(values);
  }

  View view() {
    View v = device_ ? device_.view() : memory();
    for (size_t d = 0; d < shape_.size(); ++d) v = v.prefix(static_cast<int>(d), shape_[d]);
    return v;
  }
  void fill(float value) {
    for_each([&](float& x, int64_t) { x = value; });
    upload();
  }
  void set(const Mat<double>& m) {
    ASSERT_EQ(m.size(), view().size());
    for_each([&](float& x, int64_t i) { x = static_cast<float>(m[i]); });
    upload();
  }
  Mat<double> read() {
    download();
    const int64_t rows = shape_.size() == 1 ? 1 : shape_[0];
    Mat<double> m(rows, rows == 0 ? 0 : view().size() / rows);
    for_each([&](float& x, int64_t i) { m[i] = x; });
    return m;
  }
  // Fails the test if anything outside the window was written.
  void expect_guards_intact(const char* name) {
    download();
    const float sentinel = half_ ? static_cast<float>(bf16(kSentinel)) : kSentinel;
    std::vector<bool> inside(static_cast<size_t>(host_.size()));
    for_each(
        [&](float& x, int64_t) { inside[static_cast<size_t>(&x - host_.ptr<float>())] = true; });
    for (int64_t i = 0; i < host_.size(); ++i) {
      if (inside[static_cast<size_t>(i)]) continue;
      ASSERT_EQ(host_.ptr<float>()[i], sentinel)
          << name << " was written outside its view, at element " << i << " of the full tensor";
    }
  }

 private:
  View memory() { return half_ ? half_.view() : host_.view(); }
  Tensor make(Device device, DType dtype) const {
    switch (full_.size()) {
      case 1:
        return {device, dtype, {full_[0]}};
      case 2:
        return {device, dtype, {full_[0], full_[1]}};
      case 3:
        return {device, dtype, {full_[0], full_[1], full_[2]}};
      default:
        return {device, dtype, {full_[0], full_[1], full_[2], full_[3]}};
    }
  }
  // fn(element, index among the window's elements)
  template <class Fn>
  void for_each(Fn fn) {
    std::vector<int64_t> at(shape_.size(), 0);
    int64_t count = 1;
    for (int64_t n : shape_) count *= n;
    for (int64_t i = 0; i < count; ++i) {
      int64_t offset = 0;
      for (size_t d = 0; d < at.size(); ++d) offset = offset * full_[d] + at[d];
      fn(host_.ptr<float>()[offset], i);
      for (size_t d = at.size(); d-- > 0;) {
        if (++at[d] < shape_[d]) break;
        at[d] = 0;
      }
    }
  }
  void upload() {
    if (half_)
      for (int64_t i = 0; i < host_.size(); ++i) half_.ptr<bf16>()[i] = bf16(host_.ptr<float>()[i]);
    if (device_) copy(device_.view(), memory());
  }
  void download() {
    if (device_) copy(memory(), device_.view());
    if (half_)
      for (int64_t i = 0; i < host_.size(); ++i)
        host_.ptr<float>()[i] = static_cast<float>(half_.ptr<bf16>()[i]);
  }
  std::vector<int64_t> shape_;
  std::vector<int64_t> full_;
  Tensor host_;    // f32
  Tensor half_;    // the same in bf16, where that is the type
  Tensor device_;  // where it is CUDA's
};

}  // namespace nestling::testing
