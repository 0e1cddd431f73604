#include "kernels/ops/activation.h"

#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

using simd::Vf;

// A matrix as base pointer and pitch; `in` and `out` are the elements of one step.
struct In {
  const float* base;
  int64_t pitch;
  explicit In(ConstView v) : base(v.ptr<float>()), pitch(v.pitch()) {}
  template <bool full>
  NESTLING_INLINE Vf at(int64_t t, int64_t d, int64_t n) const {
    return load_some<full>(base + t * pitch + d, n);
  }
};
struct Out {
  float* base;
  int64_t pitch;
  explicit Out(View v) : base(v.ptr<float>()), pitch(v.pitch()) {}
  template <bool full>
  NESTLING_INLINE void put(int64_t t, int64_t d, int64_t n, Vf v) const {
    store_some<full>(base + t * pitch + d, v, n);
  }
};

struct SquaredRelu {
  Out y;
  In x;
  template <bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const Vf v = x.at<full>(t, d, n);
    // select, not max: a NaN goes on to y.
    y.put<full>(t, d, n, simd::select(v < Vf{}, Vf{}, v * v));
  }
};

struct SquaredReluGrad {
  Out dx;
  In dy, x;
  template <bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const Vf v = x.at<full>(t, d, n);
    const Vf slope = simd::select(v < Vf{}, Vf{}, v + v);
    dx.put<full>(t, d, n, dy.at<full>(t, d, n) * slope);
  }
};

struct GatedSilu {
  Out y;
  In gate, up;
  template <bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const Vf g = gate.at<full>(t, d, n);
    y.put<full>(t, d, n, g * simd::sigmoid(g) * up.at<full>(t, d, n));
  }
};

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
struct GatedSiluGrad {
  Out dgate, dup;
  In dy, gate, up;
  template <bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const Vf g = gate.at<full>(t, d, n);
    const Vf u = up.at<full>(t, d, n);
    const Vf dout = dy.at<full>(t, d, n);
    const Vf one = simd::splat(1.0f);
    const Vf s = simd::sigmoid(g);
    dgate.put<full>(t, d, n, dout * u * s * (one + g * (one - s)));
    dup.put<full>(t, d, n, dout * g * s);
  }
};

}  // namespace

void run(Context&, const SquaredReluForward& a) {
  sweep(SquaredRelu{.y = Out(a.y), .x = In(a.x)}, a.x.dim(0), a.x.dim(1));
}

void run(Context&, const SquaredReluBackward& a) {
  sweep(SquaredReluGrad{.dx = Out(a.dx), .dy = In(a.dy), .x = In(a.x)}, a.x.dim(0), a.x.dim(1));
}

void run(Context&, const GatedSiluForward& a) {
  sweep(GatedSilu{.y = Out(a.y), .gate = In(a.gate), .up = In(a.up)}, a.y.dim(0), a.y.dim(1));
}

void run(Context&, const GatedSiluBackward& a) {
  sweep(GatedSiluGrad{.dgate = Out(a.dgate),
                      .dup = Out(a.dup),
                      .dy = In(a.dy),
                      .gate = In(a.gate),
                      .up = In(a.up)},
        a.dy.dim(0), a.dy.dim(1));
}

}  // namespace nestling::cpu
