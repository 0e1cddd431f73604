// fp8_operands.h - codes of E4M3 in the manner of Guarded: a window among codes of NaN; and what the tests of
// their operators run on.
#pragma once
#include "kernels/core/f8e4m3.h"
#include "kernels/reference/fp8_linear.h"
#include "tests/support/guarded_bytes.h"
#include "tests/support/half_operands.h"

namespace nestling::testing {

class Codes : public GuardedBytes {
 public:
  static constexpr uint8_t kNaN = 0x7f;
  Codes(Device device, int64_t rows, int64_t cols, int64_t gap = 16)
      : GuardedBytes(device, DType::kF8E4M3, rows, cols, gap, kNaN) {}
  Codes(Device device, const Mat<double>& values, int64_t gap = 16)
      : GuardedBytes(device, DType::kF8E4M3, codes_of(values), gap, kNaN) {}

 private:
  static Mat<int> codes_of(const Mat<double>& values) {
    Mat<int> codes(values.rows, values.cols);
    for (int64_t i = 0; i < codes.size(); ++i) codes[i] = reference::e4m3_code(values[i]);
    return codes;
  }
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
