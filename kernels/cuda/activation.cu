// activation.cu - squared ReLU and gated SiLU, element by element.
#include "kernels/cuda/sweep.cuh"
#include "kernels/ops/activation.h"

namespace nestling::cuda {

namespace {

struct SquaredRelu {
  static constexpr int kInputs = 1, kOutputs = 1;
  // A comparison, not fmaxf: a NaN goes on to y.
  __device__ void operator()(const float* x, float* y) const {
    y[0] = x[0] < 0.0f ? 0.0f : x[0] * x[0];
  }
};

struct SquaredReluGrad {  // of dy, x
  static constexpr int kInputs = 2, kOutputs = 1;
  __device__ void operator()(const float* in, float* dx) const {
    const float x = in[1];
    dx[0] = in[0] * (x < 0.0f ? 0.0f : x + x);
  }
};

struct GatedSilu {  // of gate, up
  static constexpr int kInputs = 2, kOutputs = 1;
  __device__ void operator()(const float* in, float* y) const { y[0] = silu(in[0]) * in[1]; }
};

struct GatedSiluGrad {  // of dy, gate, up; to dgate, dup
  static constexpr int kInputs = 3, kOutputs = 2;
  __device__ void operator()(const float* in, float* out) const {
    const float dy = in[0];
    const float gate = in[1];
    const float s = sigmoid(gate);  // once: silu() and silu_slope() would each have their own
    out[0] = dy * in[2] * (s * (1.0f + gate * (1.0f - s)));
    out[1] = dy * (gate * s);
  }
};

}  // namespace

void run(Context& ctx, const SquaredReluForward& a) {
  with_elements(a.y, [&]<class X>(X) { sweep<X, X>(ctx, SquaredRelu{}, {a.y}, {a.x}); });
}
void run(Context& ctx, const SquaredReluBackward& a) {
  with_elements(a.dx, [&]<class X>(X) {
    sweep<X, X>(ctx, SquaredReluGrad{}, {a.dx}, {a.dy, a.x});
  });
}
void run(Context& ctx, const GatedSiluForward& a) {
  with_elements(a.y, [&]<class X>(X) { sweep<X, X>(ctx, GatedSilu{}, {a.y}, {a.gate, a.up}); });
}
void run(Context& ctx, const GatedSiluBackward& a) {
  with_elements(a.dgate, [&]<class X>(X) {
    sweep<X, X>(ctx, GatedSiluGrad{}, {a.dgate, a.dup}, {a.dy, a.gate, a.up});
  });
}

}  // namespace nestling::cuda
