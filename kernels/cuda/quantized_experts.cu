// quantized_experts.cu - one product an expert on weights that are codes: all values are exact in bf16, and the
// products are those of expert_linear_forward (expert_products.h).
//
// Groups        of experts, of about one size, one after another in the same scratch: what the products read of 128
//               experts is more than a gigabyte. Weights of an expert without rows are not widened, and nobody reads
//               what is there instead.
// Scales        a warp multiplies a row of sums by its expert's, which it finds in the offsets.
// Sums          are made in y itself where that is f32 and its rows are whole 16 bytes, else in scratch whose rows
//               start there, so that the kernels and the bits of a product do not depend on where y lies.
#include <algorithm>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/expert_products.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/quantized_experts.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rounded.h"
#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/nvfp4_linear.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;

// The values of x's codes, [R, K] bf16 in scratch.
View values_of(Context& ctx, const QuantizedExpertLinear& a) {
  const int64_t rows = a.x.dim(0);
  const int64_t cols = a.x.dim(1);
  const View values = aligned_scratch(ctx, DType::kBF16, rows, cols);
  const Arena::Mark until_widened(ctx.scratch());
  if (a.block_scales) {
    const View codes = aligned_scratch(ctx, DType::kU8, rows, cols / 2);
    const View scales = ctx.scratch().alloc(DType::kF8E4M3, {rows, cols / kNvfp4Block});
    run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
    widen(ctx, values, codes, scales);
  } else {
    const View codes = aligned_scratch(ctx, DType::kF8E4M3, rows, cols);
    run(ctx, Fp8Quantize{.codes = codes, .x = a.x, .scale = a.input_scale});
    widen(ctx, values, codes, {});
  }
  return values;
}

// Experts at a time: as many as fit, in groups of about one size.
int64_t experts_at_once(const QuantizedExpertLinear& a, int64_t weight_bytes) {
  const int64_t experts = a.codes.dim(0);
  const int64_t bytes = dtype_bytes(DType::kBF16) * a.y.dim(1) * a.x.dim(1);
  const int64_t fit = std::max<int64_t>(1, weight_bytes / bytes);
  const int64_t groups = (experts + fit - 1) / fit;
  return (experts + groups - 1) / groups;
}

void multiply(Context& ctx, View sums, ConstView x, const QuantizedExpertLinear& a,
              int64_t weight_bytes) {
  const int64_t experts = a.codes.dim(0);
  const int64_t n = sums.dim(1);
  const int64_t k = x.dim(1);
  const int64_t step = experts_at_once(a, weight_bytes);
  const View wide = aligned_scratch(ctx, DType::kBF16, step * n, k).reshape({step, n, k});
  for (int64_t begin = 0; begin < experts; begin += step) {
    const int64_t count = std::min(step, experts - begin);
    const View w = wide.prefix(0, count);
    const ConstView offsets = a.offsets.slice(0, begin, count + 1);
    widen(ctx, w, a.codes.slice(0, begin, count),
          a.block_scales ? a.block_scales.slice(0, begin, count) : ConstView(), offsets);
    part_of_experts(ctx, sums, x, w, offsets, experts);
  }
}

template <class Y>
struct ScaledRows {
  Y* y;
  const float* sums;  // may be y
  const int32_t* offsets;
  const float* scales;
  int64_t y_pitch, sums_pitch, rows, cols;
  int experts;
  float input_scale;
};

// The expert that has this row: offsets[e] <= row < offsets[e + 1].
__device__ int expert_of_row(const int32_t* offsets, int experts, int64_t row) {
  int low = 0;
  int high = experts;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <int kN, class Y>
__global__ void __launch_bounds__(kThreads) scale_kernel(ScaledRows<Y> s) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t row = first_item() / kWarp; row < s.rows; row += item_step() / kWarp) {
    // The product of the scales, rounded to f32 once.
    const float by = s.input_scale * s.scales[expert_of_row(s.offsets, s.experts, row)];
    for (int64_t col = lane * kN; col < s.cols; col += kWarp * kN) {
      Pack<kN> pack = load_pack<kN>(s.sums + row * s.sums_pitch + col, s.cols - col);
#pragma unroll
      for (int i = 0; i < kN; ++i) pack.v[i] *= by;
      store_pack(s.y + row * s.y_pitch + col, pack, s.cols - col);
    }
  }
}

template <class Y>
void scale_rows(Context& ctx, const QuantizedExpertLinear& a, ConstView sums) {
  const ScaledRows<Y> s{.y = elements<Y>(a.y),
                        .sums = sums.ptr<float>(),
                        .offsets = a.offsets.ptr<int32_t>(),
                        .scales = a.scales.ptr<float>(),
                        .y_pitch = a.y.pitch(),
                        .sums_pitch = sums.pitch(),
                        .rows = a.y.dim(0),
                        .cols = a.y.dim(1),
                        .experts = static_cast<int>(a.codes.dim(0)),
                        .input_scale = a.input_scale};
  const Grid grid{blocks_for(s.rows * kWarp, kThreads), kThreads};
  if (packable(s.y, s.y_pitch) && packable(s.sums, s.sums_pitch))
    launch(ctx, grid, scale_kernel<4, Y>, s);
  else
    launch(ctx, grid, scale_kernel<1, Y>, s);
}

}  // namespace

void quantized_expert_linear(Context& ctx, const QuantizedExpertLinear& a, int64_t weight_bytes) {
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const bool in_place = a.y.dtype() == DType::kF32 && whole_rows(a.y, 16);
  const View sums = in_place ? a.y : aligned_scratch(ctx, DType::kF32, a.y.dim(0), a.y.dim(1));
  multiply(ctx, sums, values_of(ctx, a), a, weight_bytes);
  with_elements(a.y, [&]<class Y>(Y) { scale_rows<Y>(ctx, a, sums); });
}

void run(Context& ctx, const QuantizedExpertLinear& a) {
  constexpr int64_t kWeightBytes = int64_t{512} << 20;  // at a time, or those of one expert
  quantized_expert_linear(ctx, a, kWeightBytes);
}

}  // namespace nestling::cuda
