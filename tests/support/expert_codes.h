// expert_codes.h - the weights of experts as codes, FP8 or NVFP4: stacks cut out of larger ones on every axis, with
// rows for each expert and a scale.
#pragma once
#include <array>
#include <cstring>

#include "kernels/ops/quantized_experts.h"
#include "kernels/reference/quantized_experts.h"
#include "tests/support/ints.h"
#include "tests/support/nvfp4_operands.h"

namespace nestling::testing {

// [E, N, C] codes of a byte each; more experts, rows and columns around them are all `fill`.
class ByteStack {
 public:
  ByteStack(Device device, DType dtype, const std::vector<Mat<int>>& experts, int64_t gap,
            uint8_t fill)
      : shape_{std::ssize(experts), experts[0].rows, experts[0].cols} {
    const int64_t more = gap > 0 ? 1 : 0;
    const int64_t rows = shape_[1] + more, cols = shape_[2] + gap;
    Tensor host(Device::kCpu, dtype, {shape_[0] + more, rows, cols});
    std::memset(host.view().data(), fill, static_cast<size_t>(host.size()));
    for (int64_t e = 0; e < shape_[0]; ++e)
      for (int64_t n = 0; n < shape_[1]; ++n)
        for (int64_t c = 0; c < shape_[2]; ++c)
          host.view().data()[(e * rows + n) * cols + c] =
              static_cast<std::byte>(experts[static_cast<size_t>(e)](n, c));
    all_ = Tensor(device, dtype, {shape_[0] + more, rows, cols});
    copy(all_.view(), host.view());
  }
  View view() { return all_.view().prefix(0, shape_[0]).prefix(1, shape_[1]).prefix(2, shape_[2]); }

 private:
  std::array<int64_t, 3> shape_;
  Tensor all_;
};

enum class CodeFormat : uint8_t { kFp8, kNvfp4 };
inline const char* format_name(CodeFormat format) {
  return format == CodeFormat::kFp8 ? "fp8" : "nvfp4";
}

// Of one format; on the host, as the reference reads them.
struct ExpertCodes {
  CodeFormat format;
  std::vector<Mat<double>> fp8;  // values of codes
  std::vector<reference::Nvfp4> nvfp4;
  std::vector<float> scales;
  std::vector<int> offsets;

  int64_t experts() const { return std::ssize(scales); }
  int64_t rows() const { return offsets.back(); }
  int64_t n() const { return format == CodeFormat::kFp8 ? fp8[0].rows : nvfp4[0].codes.rows; }
  int64_t k() const { return format == CodeFormat::kFp8 ? fp8[0].cols : nvfp4[0].codes.cols; }
  // Makes codes of w by the next expert's scale.
  void add(const Mat<double>& w, float scale) {
    scales.push_back(scale);
    if (format == CodeFormat::kFp8)
      fp8.push_back(reference::e4m3_of(w, scale));
    else
      nvfp4.push_back(reference::nvfp4_of(w, scale));
  }
  // What products read.
  Mat<double> values(size_t e) const {
    return format == CodeFormat::kFp8 ? fp8[e] : reference::nvfp4_values(nvfp4[e]);
  }
  Mat<double> values_of(const Mat<double>& x, float input_scale) const {
    return format == CodeFormat::kFp8
               ? reference::e4m3_of(x, input_scale)
               : reference::nvfp4_values(reference::nvfp4_of(x, input_scale));
  }
  Mat<double> product(const Mat<double>& x, float input_scale) const {
    return format == CodeFormat::kFp8
               ? reference::quantized_experts(x, fp8, scales, offsets, input_scale)
               : reference::quantized_experts(x, nvfp4, scales, offsets, input_scale);
  }
  // The first experts, outputs and columns, of rows that the first experts have.
  ExpertCodes cut(int64_t experts, int64_t n, int64_t k) const {
    ExpertCodes out{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {}};
    for (size_t e = 0; e < static_cast<size_t>(experts); ++e)
      if (format == CodeFormat::kFp8)
        out.fp8.push_back(corner(fp8[e], n, k));
      else
        out.nvfp4.push_back({corner(nvfp4[e].codes, n, k), corner(nvfp4[e].scales, n, k / 16)});
    out.scales.assign(scales.begin(), scales.begin() + experts);
    out.offsets.assign(offsets.begin(), offsets.begin() + experts + 1);
    return out;
  }
};

// The same on a device. `gap`: bytes behind every row of codes; 0: nor anything else around them.
class ExpertStack {
 public:
  ExpertStack(Device device, const ExpertCodes& w, int64_t gap)
      : codes_(device, dtype(w), codes(w), gap, fill(w)),
        scales_(device, scales_row(w)),
        offsets_(device, {w.offsets.begin(), w.offsets.end()}) {
    if (w.format == CodeFormat::kFp8) return;
    std::vector<Mat<int>> blocks;
    for (const auto& q : w.nvfp4) blocks.push_back(q.scales);
    block_scales_.emplace_back(device, DType::kF8E4M3, blocks, gap > 0 ? 3 : 0, Codes::kNaN);
  }
  QuantizedExpertLinear operands(View y, ConstView x, float input_scale) {
    return {.y = y,
            .x = x,
            .codes = codes_.view(),
            .block_scales = block_scales_.empty() ? ConstView() : block_scales_[0].view(),
            .scales = scales_.row(),
            .offsets = offsets_.row(),
            .input_scale = input_scale};
  }

 private:
  static DType dtype(const ExpertCodes& w) {
    return w.format == CodeFormat::kFp8 ? DType::kF8E4M3 : DType::kU8;
  }
  static uint8_t fill(const ExpertCodes& w) {
    return w.format == CodeFormat::kFp8 ? Codes::kNaN : GuardedNvfp4::kSixes;
  }
  static std::vector<Mat<int>> codes(const ExpertCodes& w) {
    std::vector<Mat<int>> all;
    for (const auto& q : w.nvfp4) all.push_back(packed(q.codes));
    for (const auto& values : w.fp8) {
      all.emplace_back(values.rows, values.cols);
      for (int64_t i = 0; i < values.size(); ++i) all.back()[i] = reference::e4m3_code(values[i]);
    }
    return all;
  }
  static Mat<double> scales_row(const ExpertCodes& w) {
    Mat<double> row(1, w.experts());
    row.v.assign(w.scales.begin(), w.scales.end());
    return row;
  }
  ByteStack codes_;
  std::vector<ByteStack> block_scales_;  // none or one
  Guarded scales_;
  GuardedInts offsets_;
};

}  // namespace nestling::testing
