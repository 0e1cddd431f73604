#include "kernels/ops/activation.h"

#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

// A matrix as base pointer and pitch; `in` and `out` are the elements of one step.
struct In {
  const float* base;
  int64_t pitch;
  explicit In(ConstView v) : base(v.ptr<float>()), pitch(v.pitch()) {}
  template <class V, bool full>
  NESTLING_INLINE V at(int64_t t, int64_t d, int64_t n) const {
    return load_some<V, full>(base + t * pitch + d, n);
  }
};
struct Out {
  float* base;
  int64_t pitch;
  explicit Out(View v) : base(v.ptr<float>()), pitch(v.pitch()) {}
  template <class V, bool full>
  NESTLING_INLINE void put(int64_t t, int64_t d, int64_t n, V v) const {
    store_some<V, full>(base + t * pitch + d, v, n);
  }
};

struct SquaredRelu {
  Out y;
  In x;
  template <class V, bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const V v = x.at<V, full>(t, d, n);
    // select, not max: a NaN goes on to y.
    y.put<V, full>(t, d, n, simd::select<V>(v < V{}, V{}, v * v));
  }
};

struct SquaredReluGrad {
  Out dx;
  In dy, x;
  template <class V, bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const V v = x.at<V, full>(t, d, n);
    const V slope = simd::select<V>(v < V{}, V{}, v + v);
    dx.put<V, full>(t, d, n, dy.at<V, full>(t, d, n) * slope);
  }
};

struct GatedSilu {
  Out y;
  In gate, up;
  template <class V, bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const V g = gate.at<V, full>(t, d, n);
    y.put<V, full>(t, d, n, g * simd::sigmoid(g) * up.at<V, full>(t, d, n));
  }
};

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
struct GatedSiluGrad {
  Out dgate, dup;
  In dy, gate, up;
  template <class V, bool full>
  NESTLING_INLINE void step(int64_t t, int64_t d, int64_t n) const {
    const V g = gate.at<V, full>(t, d, n);
    const V u = up.at<V, full>(t, d, n);
    const V dout = dy.at<V, full>(t, d, n);
    const V s = simd::sigmoid(g);
    dgate.put<V, full>(t, d, n, dout * u * s * (1.0f + g * (1.0f - s)));
    dup.put<V, full>(t, d, n, dout * g * s);
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
