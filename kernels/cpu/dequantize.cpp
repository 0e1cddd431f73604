#include "kernels/ops/dequantize.h"

#include "kernels/core/parallel.h"
#include "kernels/cpu/code_values.h"
#include "kernels/cpu/widened_product.h"

namespace nestling::cpu {

namespace {

void dequantize_matrix(View y, ConstView codes, ConstView block_scales, float scale) {
  if (block_scales)
    widen(y, codes, block_scales);
  else
    widen(y, codes);
  each_row(y, [&](int64_t r) {
    float* row = y.ptr<float>() + r * y.pitch();
    for (int64_t i = 0; i < y.dim(1); ++i) row[i] *= scale;
  });
}

}  // namespace

void run(Context& /*ctx*/, const Dequantize& a) {
  if (a.y.rank() == 2) return dequantize_matrix(a.y, a.codes, a.block_scales, a.scale);
  const auto matrix = [](auto v, int64_t e) {
    return v ? v.slice(0, e, 1).reshape({v.dim(1), v.dim(2)}) : v;
  };
  parallel_for(a.y.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e)
      dequantize_matrix(matrix(a.y, e), matrix(a.codes, e), matrix(a.block_scales, e),
                        a.expert_scales.ptr<float>()[e]);
  });
}

}  // namespace nestling::cpu
