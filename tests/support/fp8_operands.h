// fp8_operands.h - codes of E4M3 in the manner of Guarded: a window among codes of NaN; and what the tests of
// their operators run on.
#pragma once
#include <cstring>

#include "kernels/core/f8e4m3.h"
#include "kernels/reference/fp8_linear.h"
#include "tests/support/half_operands.h"

namespace nestling::testing {

class Codes {
 public:
  static constexpr uint8_t kNaN = 0x7f;
  Codes(Device device, int64_t rows, int64_t cols, int64_t gap = 16)
      : host_(Device::kCpu, DType::kF8E4M3, {rows + 2, cols + gap}), rows_(rows), cols_(cols) {
    std::memset(host_.view().data(), kNaN, static_cast<size_t>(host_.size()));
    if (device == Device::kCuda) device_ = Tensor(device, DType::kF8E4M3, {rows + 2, cols + gap});
    upload();
  }
  Codes(Device device, const Mat<double>& values, int64_t gap = 16)
      : Codes(device, values.rows, values.cols, gap) {
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c)
        at(r, c).bits = static_cast<uint8_t>(reference::e4m3_code(values(r, c)));
    upload();
  }
  View view() {
    return (device_ ? device_.view() : host_.view()).slice(0, 1, rows_).prefix(1, cols_);
  }
  Mat<int> read() {
    download();
    Mat<int> m(rows_, cols_);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < cols_; ++c) m(r, c) = at(r, c).bits;
    return m;
  }
  void expect_guards_intact() {
    download();
    const int64_t pitch = host_.view().dim(1);
    for (int64_t i = 0; i < host_.size(); ++i) {
      const int64_t r = i / pitch - 1;
      if (r >= 0 && r < rows_ && i % pitch < cols_) continue;
      ASSERT_EQ(host_.ptr<f8e4m3>()[i].bits, kNaN) << "row " << r << ", column " << i % pitch;
    }
  }

 private:
  f8e4m3& at(int64_t r, int64_t c) {
    return host_.ptr<f8e4m3>()[(r + 1) * host_.view().dim(1) + c];
  }
  void upload() {
    if (device_) copy(device_.view(), host_.view());
  }
  void download() {
    if (device_) copy(host_.view(), device_.view());
  }
  Tensor host_, device_;
  int64_t rows_, cols_;
};

// Values of codes, as weights have them: of a size that reaches the largest ones.
inline Mat<double> random_codes(Rng& rng, int64_t rows, int64_t cols) {
  auto m = random_mat(rng, rows, cols, 120.0);
  for (auto& x : m.v) x = reference::e4m3_value(reference::e4m3_code(x));
  return m;
}
// A device, and whether activations are bf16 there.
struct Kind {
  Device device;
  bool half;
};
inline std::string kind_name(const Kind& kind) {
  return str(device_name(kind.device), kind.half ? "_bf16" : "_f32");
}
inline constexpr Kind kKinds[] = {
    {Device::kCpu, false}, {Device::kCuda, false}, {Device::kCuda, true}};

}  // namespace nestling::testing
