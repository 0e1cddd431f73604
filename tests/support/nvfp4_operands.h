// nvfp4_operands.h - matrices of NVFP4 in the manner of Guarded: codes among codes of 6, scales of blocks among NaN.
#pragma once
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/reference/nvfp4_linear.h"
#include "tests/support/fp8_operands.h"

namespace nestling::testing {

// Two codes a byte, and one by one again.
inline Mat<int> packed(const Mat<int>& codes) {
  Mat<int> bytes(codes.rows, codes.cols / 2);
  for (int64_t i = 0; i < bytes.size(); ++i) bytes[i] = codes[2 * i] | codes[2 * i + 1] << 4;
  return bytes;
}
inline Mat<int> unpacked(const Mat<int>& bytes) {
  Mat<int> codes(bytes.rows, 2 * bytes.cols);
  for (int64_t i = 0; i < bytes.size(); ++i) {
    codes[2 * i] = bytes[i] & 15;
    codes[2 * i + 1] = bytes[i] >> 4;
  }
  return codes;
}

class GuardedNvfp4 {
 public:
  static constexpr uint8_t kSixes = 0x77, kNaN = 0x7f;
  // An output of rows x cols.
  GuardedNvfp4(Device device, int64_t rows, int64_t cols, int64_t gap)
      : codes_(device, DType::kU8, rows, cols / 2, gap, kSixes),
        scales_(device, DType::kF8E4M3, rows, cols / kNvfp4Block, gap, kNaN) {}
  // An operand. Its rows start at multiples of 16 bytes where those without gaps do.
  GuardedNvfp4(Device device, const reference::Nvfp4& q, float scale, int64_t gap = 16)
      : codes_(device, DType::kU8, packed(q.codes), gap, kSixes),
        scales_(device, DType::kF8E4M3, q.scales, 3, kNaN),
        scale_(scale) {}
  View codes() { return codes_.view(); }
  View scales() { return scales_.view(); }
  Nvfp4 view() { return {.codes = codes(), .scales = scales(), .scale = scale_}; }
  reference::Nvfp4 read() { return {unpacked(codes_.read()), scales_.read()}; }
  void expect_guards_intact() {
    codes_.expect_guards_intact();
    scales_.expect_guards_intact();
  }

 private:
  GuardedBytes codes_, scales_;
  float scale_ = 1;
};

// The first rows and columns.
template <class T>
Mat<T> corner(const Mat<T>& m, int64_t rows, int64_t cols) {
  Mat<T> out(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out(r, c) = m(r, c);
  return out;
}

}  // namespace nestling::testing
