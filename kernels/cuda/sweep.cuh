// sweep.cuh - y = f(x) element by element over matrices of any pitch: elementwise operators.
//
//   struct Add {
//     static constexpr int kInputs = 2, kOutputs = 1;
//     __device__ void operator()(const float* x, float* y) const { y[0] = x[0] + x[1]; }
//   };
//   sweep<float, float>(ctx, Add{}, {y}, {a, b});      // types of the outputs, of the inputs
//
// Shape         a thread takes kAtOnce packs at a time, all loaded before the first is stored: outputs may
//               be inputs, and the loads are in flight together. Rows are walked: one division a thread.
//               Operands without gaps are one long row.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"

namespace nestling::cuda {

namespace sweeping {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;

template <class X>
struct Operand {
  X* base;
  int64_t pitch;
};

template <class F, class Y, class X>
struct Sweep {
  F f;
  Operand<Y> out[F::kOutputs];
  Operand<const X> in[F::kInputs];
  int64_t rows, cols;
};

// Pack i of a matrix with `width` packs a row, then i + step, i + 2 step, ...
struct Walk {
  int64_t row, pack, step_rows, step_packs, width;
  __device__ Walk(int64_t i, int64_t step, int64_t width_)
      : row(i / width_),
        pack(i % width_),
        step_rows(step / width_),
        step_packs(step % width_),
        width(width_) {}
  __device__ void advance() {
    row += step_rows;
    pack += step_packs;
    if (pack < width) return;
    pack -= width;
    ++row;
  }
};

// What a thread takes at a time.
struct Packs {
  int64_t row[kAtOnce], col[kAtOnce];
  int64_t n[kAtOnce];  // elements: 0 behind the last row
};

// kWhole: all of these packs are whole, and the loads are free of branches.
template <int kN, bool kWhole, class F, class Y, class X>
__device__ void apply(const Sweep<F, Y, X>& s, const Packs& at) {
  Pack<kN> x[kAtOnce][F::kInputs];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u)
#pragma unroll
    for (int k = 0; k < F::kInputs; ++k)
      x[u][k] = load_pack<kN>(s.in[k].base + at.row[u] * s.in[k].pitch + at.col[u],
                              kWhole ? kN : at.n[u]);
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    Pack<kN> y[F::kOutputs];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      float from[F::kInputs], to[F::kOutputs];
#pragma unroll
      for (int k = 0; k < F::kInputs; ++k) from[k] = x[u][k].v[i];
      s.f(from, to);
#pragma unroll
      for (int k = 0; k < F::kOutputs; ++k) y[k].v[i] = to[k];
    }
#pragma unroll
    for (int k = 0; k < F::kOutputs; ++k)
      store_pack(s.out[k].base + at.row[u] * s.out[k].pitch + at.col[u], y[k],
                 kWhole ? kN : at.n[u]);
  }
}

template <int kN, class F, class Y, class X>
__global__ void __launch_bounds__(kThreads) sweep_kernel(Sweep<F, Y, X> s) {
  Walk walk(first_item(), item_step(), (s.cols + kN - 1) / kN);
  while (walk.row < s.rows) {
    Packs at;
    bool whole = true;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      at.row[u] = walk.row;
      at.col[u] = walk.pack * kN;
      at.n[u] = walk.row < s.rows ? min(int64_t{kN}, s.cols - at.col[u]) : 0;
      whole = whole && at.n[u] == kN;
      walk.advance();
    }
    if (whole)
      apply<kN, true>(s, at);
    else
      apply<kN, false>(s, at);
  }
}

}  // namespace sweeping

// All views of one shape. Empty ones are legal.
template <class Y, class X, class F>
void sweep(Context& ctx, const F& f, const std::array<View, F::kOutputs>& out,
           const std::array<ConstView, F::kInputs>& in) {
  using namespace sweeping;  // NOLINT(google-build-using-namespace)
  const ConstView first = out[0];
  if (first.size() == 0) return;
  Sweep<F, Y, X> s{f, {}, {}, first.rows(), first.dim(first.rank() - 1)};
  const auto dense = [](const auto& views) {
    return std::all_of(views.begin(), views.end(), [](const auto& v) { return v.dense(); });
  };
  if (dense(out) && dense(in)) {
    s.cols = first.size();
    s.rows = 1;
  }
  bool packs = true;
  const auto operand = [&](auto* base, ConstView v) {
    // A dense view may have dims of extent 1 with any stride: only one with gaps is asked for its pitch.
    const int64_t pitch = s.rows == 1 ? 0 : v.dense() ? s.cols : v.pitch();
    packs = packs && packable(base, pitch);
    return Operand<std::remove_pointer_t<decltype(base)>>{base, pitch};
  };
  for (size_t k = 0; k < out.size(); ++k) s.out[k] = operand(elements<Y>(out[k]), out[k]);
  for (size_t k = 0; k < in.size(); ++k) s.in[k] = operand(elements<X>(in[k]), in[k]);
  const int64_t width = packs ? (s.cols + 3) / 4 : s.cols;
  const int64_t turns = (s.rows * width + kAtOnce - 1) / kAtOnce;
  const Grid grid{blocks_for(turns, kThreads), kThreads};
  if (packs)
    launch(ctx, grid, sweep_kernel<4, F, Y, X>, s);
  else
    launch(ctx, grid, sweep_kernel<1, F, Y, X>, s);
}

}  // namespace nestling::cuda
