// weight.h - a parameter as layers read it: its values, or of a quantized one codes and the scales that make them
// values.
//
// Values        f32 or bf16: a view, and nothing else. Where a view is asked for, codes are refused.
// FP8           codes f8_e4m3 of the parameter's shape; value = code * scale.
// NVFP4         codes u8, two along the last dimension (kernels/core/nvfp4.h), and block_scales, one for 16;
//               value = code * block scale * scale. dim() of the last dimension is that of the bytes.
// Experts       of stacked ones (rank 3) each has its own scale: expert_scales [E] f32 beside the codes.
// Elasticity    prefix() takes elements of the parameter, in whole blocks of 16 of NVFP4's last dimension. Scales
//               of the parent are kept: a size's codes are the parent's, bit for bit.
// Ownership     borrows, as views do (model/weights.h).
#pragma once
#include "kernels/core/nvfp4.h"
#include "kernels/core/view.h"

namespace nestling {

struct Weight {
  ConstView stored = {};         // values, or codes
  ConstView block_scales = {};   // [..., K/16] f8_e4m3
  ConstView expert_scales = {};  // [E] f32, of what is stacked
  float scale = 1;               // of the tensor
  float input_scale = 1;         // of the activations it is multiplied with
  View largest_input =
      {};  // [1] f32; where given, products raise it to the largest |activation| they saw

  Weight() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): as View to ConstView
  Weight(ConstView values) : stored(values) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  Weight(const View& values) : stored(values) {}
  // NOLINTNEXTLINE(google-explicit-constructor): what takes no codes takes a view
  operator ConstView() const {
    NESTLING_CHECK(!quantized(), "codes ", stored.describe(), " where f32 or bf16 is needed");
    return stored;
  }

  explicit operator bool() const { return static_cast<bool>(stored); }
  bool quantized() const { return dtype() == DType::kF8E4M3 || dtype() == DType::kU8; }
  DType dtype() const { return stored.dtype(); }
  int rank() const { return stored.rank(); }
  int64_t dim(int d) const { return stored.dim(d); }
  int64_t size() const { return stored.size(); }
  const std::byte* data() const { return stored.data(); }
  Weight prefix(int d, int64_t n) const {
    Weight w = *this;
    const bool packed = dtype() == DType::kU8 && d == rank() - 1;
    NESTLING_CHECK(!packed || n % kNvfp4Block == 0, n, " of ", 2 * dim(d),
                   " columns of NVFP4 are no whole blocks of 16");
    w.stored = stored.prefix(d, packed ? n / 2 : n);
    if (block_scales) w.block_scales = block_scales.prefix(d, packed ? n / kNvfp4Block : n);
    if (expert_scales && d == 0) w.expert_scales = expert_scales.prefix(0, n);
    return w;
  }
};

}  // namespace nestling
