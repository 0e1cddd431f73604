// elementwise.cu - sums, multiples and casts, element by element.
#include "kernels/cuda/sweep.cuh"
#include "kernels/ops/elementwise.h"

namespace nestling::cuda {

namespace {

struct Add {
  static constexpr int kInputs = 2, kOutputs = 1;
  __device__ void operator()(const float* x, float* y) const { y[0] = x[0] + x[1]; }
};

struct AddScaled {  // of y, x
  static constexpr int kInputs = 2, kOutputs = 1;
  float scale;
  __device__ void operator()(const float* x, float* y) const { y[0] = fmaf(x[1], scale, x[0]); }
};

struct Scale {
  static constexpr int kInputs = 1, kOutputs = 1;
  float factor;
  __device__ void operator()(const float* x, float* y) const { y[0] = x[0] * factor; }
};

// Rounds where the output is bf16.
struct Same {
  static constexpr int kInputs = 1, kOutputs = 1;
  __device__ void operator()(const float* x, float* y) const { y[0] = x[0]; }
};

template <class Y>
void cast_to(Context& ctx, View y, ConstView x) {
  if (x.dtype() == DType::kBF16)
    sweep<Y, __nv_bfloat16>(ctx, Same{}, {y}, {x});
  else
    sweep<Y, float>(ctx, Same{}, {y}, {x});
}

}  // namespace

void add(Context& ctx, View y, ConstView a, ConstView b) {
  sweep<float, float>(ctx, Add{}, {y}, {a, b});
}
void add_scaled(Context& ctx, View y, ConstView x, float scale) {
  sweep<float, float>(ctx, AddScaled{scale}, {y}, {y, x});
}
void scale(Context& ctx, View x, float factor) {
  sweep<float, float>(ctx, Scale{factor}, {x}, {x});
}
void cast(Context& ctx, View y, ConstView x) {
  if (y.dtype() == DType::kBF16)
    cast_to<__nv_bfloat16>(ctx, y, x);
  else
    cast_to<float>(ctx, y, x);
}

}  // namespace nestling::cuda
