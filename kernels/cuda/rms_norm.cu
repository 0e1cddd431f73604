// rms_norm.cu - a block walks rows; a thread holds 4 quads of one, so that rows of up to 4096 elements are read
// once, and w once a block, longer ones again for the second half. In backward a block sums its part of dw in
// shared memory, each element with one thread; the parts are added in one order.
//
// Limits        backward: 32768 columns, whose dw must fit the shared memory of any card.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/rms_norm.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kHeld = 4;
constexpr int64_t kMostWidth = 32768;
constexpr int64_t kMostBlocks = 660;  // five a multiprocessor of an H100
constexpr int64_t kMostParts = 396;   // three: parts are written and read again
constexpr int64_t kRowsPerPart = 8;   // at least, where there are so many

struct Shape {
  int64_t rows, width;
  int sweeps;           // of kThreads * kHeld quads
  const float* active;  // null: the width
};

Shape shape_of(ConstView x, ConstView active) {
  constexpr int64_t kSweep = int64_t{kThreads} * kHeld * kQuad;
  return {.rows = x.dim(0),
          .width = x.dim(1),
          .sweeps = static_cast<int>((x.dim(1) + kSweep - 1) / kSweep),
          .active = optional_floats(active)};
}

__device__ float active_of(const Shape& s) {
  return s.active != nullptr ? *s.active : static_cast<float>(s.width);
}

// The column of the thread's quad j of a sweep, and how many columns there are from it on.
__device__ int64_t column(int sweep, int j) {
  return ((int64_t{sweep} * kHeld + j) * kThreads + threadIdx.x) * kQuad;
}

template <bool kPacked, class X>
__device__ void load_sweep(Pack<kQuad> (&to)[kHeld], const X* row, const Shape& s, int sweep) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t c = column(sweep, j);
    to[j] = load_quad<kPacked>(row + c, max(s.width - c, int64_t{0}));
  }
}

template <class Y>
struct Forward {
  Shape s;
  Y* y;
  float* rstd;
  const float* x;
  const float* w;
  int64_t y_pitch, x_pitch;
  float eps;
};

template <class Y, bool kPacked>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<Y> f) {
  const Shape& s = f.s;
  const float active = active_of(s);
  Pack<kQuad> x[kHeld] = {}, w[kHeld] = {};
  if (s.sweeps == 1) load_sweep<kPacked>(w, f.w, s, 0);
  for (int64_t t = blockIdx.x; t < s.rows; t += gridDim.x) {
    const float* row = f.x + t * f.x_pitch;
    float squares = 0.0f;
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      load_sweep<kPacked>(x, row, s, sweep);
#pragma unroll
      for (int j = 0; j < kHeld; ++j)
#pragma unroll
        for (int i = 0; i < kQuad; ++i) squares += x[j].v[i] * x[j].v[i];
    }
    const float rstd = 1.0f / sqrtf(block_sum<kThreads>(squares) / active + f.eps);
    if (threadIdx.x == 0) f.rstd[t] = rstd;
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      if (s.sweeps > 1) {
        load_sweep<kPacked>(x, row, s, sweep);
        load_sweep<kPacked>(w, f.w, s, sweep);
      }
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int64_t c = column(sweep, j);
#pragma unroll
        for (int i = 0; i < kQuad; ++i) x[j].v[i] *= rstd * w[j].v[i];
        store_quad<kPacked>(f.y + t * f.y_pitch + c, x[j], max(s.width - c, int64_t{0}));
      }
    }
  }
}

struct Backward {
  Shape s;
  float* dx;
  float* parts;  // [blocks, width + 1]: dw, then dactive, of the rows of a block
  const float* dy;
  const float* x;
  const float* w;
  const float* rstd;
  int64_t dx_pitch, dy_pitch, x_pitch;
};

struct Dots {
  float dot = 0.0f;      // of dy w x
  float squares = 0.0f;  // of x^2
};

// Leaves dy w in dy. dw [kHeld * kThreads] is the sweep's.
inline __device__ void add_sweep(Dots& dots, float4* dw, Pack<kQuad> (&dy)[kHeld],
                                 const Pack<kQuad> (&x)[kHeld], const Pack<kQuad> (&w)[kHeld],
                                 int64_t width, int sweep, float rstd) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    float scaled[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      scaled[i] = dy[j].v[i] * x[j].v[i];
      dots.dot += scaled[i] * w[j].v[i];
      dots.squares += x[j].v[i] * x[j].v[i];
      dy[j].v[i] *= w[j].v[i];
    }
    if (column(sweep, j) >= width) continue;
    float4& to = dw[j * kThreads];
    to = make_float4(to.x + scaled[0] * rstd, to.y + scaled[1] * rstd, to.z + scaled[2] * rstd,
                     to.w + scaled[3] * rstd);
  }
}

// Of dy w in dy.
template <bool kPacked>
__device__ void store_sweep(float* row, Pack<kQuad> (&dy)[kHeld], const Pack<kQuad> (&x)[kHeld],
                            const Shape& s, int sweep, float rstd, float pull) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t c = column(sweep, j);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) dy[j].v[i] = dy[j].v[i] * rstd - x[j].v[i] * pull;
    store_quad<kPacked>(row + c, dy[j], max(s.width - c, int64_t{0}));
  }
}

// Block b takes rows b, b + blocks, ...
template <bool kPacked>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward b) {
  const Shape& s = b.s;
  const float active = active_of(s);
  float4* dw = dynamic_shared<float4>() + threadIdx.x;
  for (int64_t q = threadIdx.x; q * kQuad < s.width; q += kThreads)
    dynamic_shared<float4>()[q] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float dactive = 0.0f;  // this thread's part
  Pack<kQuad> dy[kHeld] = {}, x[kHeld] = {}, w[kHeld] = {};
  if (s.sweeps == 1) load_sweep<kPacked>(w, b.w, s, 0);
  for (int64_t t = blockIdx.x; t < s.rows; t += gridDim.x) {
    const float rstd = b.rstd[t];
    Dots dots;
    const auto load = [&](int sweep) {
      load_sweep<kPacked>(dy, b.dy + t * b.dy_pitch, s, sweep);
      load_sweep<kPacked>(x, b.x + t * b.x_pitch, s, sweep);
      if (s.sweeps > 1) load_sweep<kPacked>(w, b.w, s, sweep);
    };
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      load(sweep);
      add_sweep(dots, dw + sweep * kHeld * kThreads, dy, x, w, s.width, sweep, rstd);
    }
    const float pull = block_sum<kThreads>(dots.dot) * rstd * rstd * rstd / active;
    dactive += pull * dots.squares / (2.0f * active);
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      if (s.sweeps > 1) {
        load(sweep);
#pragma unroll
        for (int j = 0; j < kHeld; ++j)
#pragma unroll
          for (int i = 0; i < kQuad; ++i) dy[j].v[i] *= w[j].v[i];
      }
      store_sweep<kPacked>(b.dx + t * b.dx_pitch, dy, x, s, sweep, rstd, pull);
    }
  }
  dactive = block_sum<kThreads>(dactive);
  float* part = b.parts + blockIdx.x * (s.width + 1);
  for (int64_t q = threadIdx.x; q * kQuad < s.width; q += kThreads) {
    const float4 sums = dynamic_shared<float4>()[q];
    store_quad<false>(part + q * kQuad, Pack<kQuad>{{sums.x, sums.y, sums.z, sums.w}},
                      s.width - q * kQuad);
  }
  if (threadIdx.x == 0) part[s.width] = dactive;
}

template <class Y>
void forward(Context& ctx, const RmsNormForward& a) {
  const Forward<Y> f{.s = shape_of(a.x, a.active),
                     .y = elements<Y>(a.y),
                     .rstd = a.rstd.ptr<float>(),
                     .x = a.x.ptr<float>(),
                     .w = a.w.ptr<float>(),
                     .y_pitch = a.y.pitch(),
                     .x_pitch = a.x.pitch(),
                     .eps = a.eps};
  const bool packed = f.s.width % kQuad == 0 && packable(f.y, f.y_pitch) &&
                      packable(f.x, f.x_pitch) && packable(f.w, 0);
  const auto blocks = static_cast<unsigned>(std::min(f.s.rows, kMostBlocks));
  launch(ctx, {blocks, kThreads}, packed ? forward_kernel<Y, true> : forward_kernel<Y, false>, f);
}

}  // namespace

void run(Context& ctx, const RmsNormForward& a) {
  if (a.x.size() == 0) return;
  with_elements(a.y, [&]<class Y>(Y) { forward<Y>(ctx, a); });
}

void run(Context& ctx, const RmsNormBackward& a) {
  if (a.x.size() == 0) return;
  const int64_t rows = a.x.dim(0);
  const int64_t width = a.x.dim(1);
  NESTLING_CHECK(width <= kMostWidth, "rms_norm_backward: ", width,
                 " columns, the CUDA kernel holds ", kMostWidth);
  const int64_t blocks = std::clamp<int64_t>(rows / kRowsPerPart, 1, kMostParts);
  const Arena::Mark mark(ctx.scratch());
  const Backward b{.s = shape_of(a.x, a.active),
                   .dx = a.dx.ptr<float>(),
                   .parts = ctx.scratch().floats(blocks * (width + 1)),
                   .dy = a.dy.ptr<float>(),
                   .x = a.x.ptr<float>(),
                   .w = a.w.ptr<float>(),
                   .rstd = a.rstd.ptr<float>(),
                   .dx_pitch = a.dx.pitch(),
                   .dy_pitch = a.dy.pitch(),
                   .x_pitch = a.x.pitch()};
  const bool packed = width % kQuad == 0 && packable(b.dx, b.dx_pitch) &&
                      packable(b.dy, b.dy_pitch) && packable(b.x, b.x_pitch) && packable(b.w, 0);
  const int64_t shared = (width + kQuad - 1) / kQuad * kQuad * static_cast<int64_t>(sizeof(float));
  const Grid grid{static_cast<unsigned>(blocks), kThreads, shared};
  launch(ctx, grid, packed ? backward_kernel<true> : backward_kernel<false>, b);
  add_parts(ctx, a.dw, b.parts, blocks, width + 1, a.dactive);
}

}  // namespace nestling::cuda
