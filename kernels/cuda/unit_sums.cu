// unit_sums.cu - magnitudes column by column, norms and products row by row, in f64.
//
// Columns       a block is 32 columns and a share of the rows, an expert's or an equal part of all; its warps
//               take rows in turn. The sums of equal parts are added in their order.
// Rows          a warp a row makes its value; one block adds the values of an expert, or of all.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/unit_sums.h"

namespace nestling::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;

// Which rows a share has: an expert's, or one of `shares` equal ones.
struct Shares {
  const int32_t* offsets;
  int64_t rows, shares;
  __device__ int64_t begin(int64_t i) const { return offsets ? offsets[i] : rows * i / shares; }
};

template <class X>
struct Magnitudes {
  double* to;  // [shares, columns]
  const X* x;
  int64_t to_pitch, pitch, columns;
  Shares of;
  bool accumulate;
};

template <class X>
__global__ void __launch_bounds__(kThreads) magnitudes_kernel(Magnitudes<X> m) {
  __shared__ double parts[kWarps][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  const int64_t share = blockIdx.y;
  double sum = 0.0;
  if (column < m.columns) {
    const int64_t end = m.of.begin(share + 1);
#pragma unroll 4
    for (int64_t t = m.of.begin(share) + warp; t < end; t += kWarps)
      sum += static_cast<double>(fabsf(load(m.x + t * m.pitch + column)));
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= m.columns) return;
  double total = parts[0][lane];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) total += parts[w][lane];
  double* to = m.to + share * m.to_pitch + column;
  *to = m.accumulate ? *to + total : total;
}

__global__ void join_kernel(double* sums, const double* parts, int64_t columns, int64_t shares) {
  for (int64_t c = first_item(); c < columns; c += item_step()) {
    double total = parts[c];
    for (int64_t i = 1; i < shares; ++i) total += parts[i * columns + c];
    sums[c] += total;
  }
}

template <class X>
void add_columns(Context& ctx, const MagnitudeSums& a) {
  constexpr int64_t kRowsOfShare = 256;
  const int64_t rows = a.x.dim(0);
  const int64_t columns = a.x.dim(1);
  const int64_t shares =
      a.offsets ? a.offsets.dim(0) - 1 : std::clamp<int64_t>(rows / kRowsOfShare, 1, 64);
  const View parts = a.offsets ? View() : ctx.scratch().alloc(DType::kF64, {shares, columns});
  const Magnitudes<X> m{.to = (a.offsets ? a.sums : parts).ptr<double>(),
                        .x = elements<X>(a.x),
                        .to_pitch = a.offsets ? a.sums.stride(0) : columns,
                        .pitch = a.x.stride(0),
                        .columns = columns,
                        .of = {.offsets = a.offsets ? a.offsets.ptr<int32_t>() : nullptr,
                               .rows = rows,
                               .shares = shares},
                        .accumulate = static_cast<bool>(a.offsets)};
  launch(ctx,
         {dim3(static_cast<unsigned>((columns + kWarp - 1) / kWarp), static_cast<unsigned>(shares)),
          kThreads},
         magnitudes_kernel<X>, m);
  if (!a.offsets)
    launch(ctx, {blocks_for(columns), kThreads}, join_kernel, a.sums.ptr<double>(),
           parts.ptr<double>(), columns, shares);
}

// Of one row, by a warp: every lane gets it.
template <class A, class B>
__device__ double dot(const A* a, const B* b, int64_t width) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp)
    sum += static_cast<double>(load(a + i)) * static_cast<double>(load(b + i));
  return warp_sum(sum);
}

template <class X>
struct ExpertNorm {
  const X* rows;
  const float* weight;
  const int32_t* order;
  int64_t pitch, weight_pitch, k, width;
  __device__ double operator()(int64_t row) const {
    const X* x = rows + row * pitch;
    const int32_t pair = order[row];
    const float gate = weight[pair / k * weight_pitch + pair % k];
    return static_cast<double>(gate) * sqrt(dot(x, x, width));
  }
};

struct Streams {
  const float *a, *b;
  int64_t a_pitch, b_pitch, width;
};
Streams streams_of(ConstView a, ConstView b) {
  return {.a = a.ptr<float>(),
          .b = b.ptr<float>(),
          .a_pitch = a.stride(0),
          .b_pitch = b.stride(0),
          .width = a.dim(1)};
}

struct Turn {
  Streams s;
  __device__ double operator()(int64_t row) const {
    const float* a = s.a + row * s.a_pitch;
    const float* b = s.b + row * s.b_pitch;
    const double lengths = sqrt(dot(a, a, s.width) * dot(b, b, s.width));
    return lengths > 0.0 ? 1.0 - dot(a, b, s.width) / lengths : 0.0;
  }
};

struct Product {
  Streams s;
  __device__ double operator()(int64_t row) const {
    return dot(s.a + row * s.a_pitch, s.b + row * s.b_pitch, s.width);
  }
};

template <class Value>
__global__ void __launch_bounds__(kThreads)
    values_kernel(double* values, int64_t rows, Value value) {
  for (int64_t row = first_item() / kWarp; row < rows; row += item_step() / kWarp) {
    const double v = value(row);
    if (threadIdx.x % kWarp == 0) values[row] = v;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_values_kernel(double* sums, const double* values, Shares of) {
  const int64_t end = of.begin(blockIdx.x + 1);
  double part = 0.0;
  for (int64_t row = of.begin(blockIdx.x) + threadIdx.x; row < end; row += kThreads)
    part += values[row];
  const double total = block_sum<kThreads>(part);
  if (threadIdx.x == 0) sums[blockIdx.x] += total;
}

// sums[e] += the values of its rows, those of expert e or, without offsets, all.
template <class Value>
void add_rows(Context& ctx, View sums, int64_t rows, ConstView offsets, const Value& value) {
  const Arena::Mark mark(ctx.scratch());
  double* values = ctx.scratch().alloc(DType::kF64, {rows}).ptr<double>();
  launch(ctx, {blocks_for(rows * kWarp, kThreads), kThreads}, values_kernel<Value>, values, rows,
         value);
  const Shares of{.offsets = offsets ? offsets.ptr<int32_t>() : nullptr, .rows = rows, .shares = 1};
  launch(ctx, {dim3(static_cast<unsigned>(sums.size())), kThreads}, add_values_kernel,
         sums.ptr<double>(), values, of);
}

}  // namespace

void run(Context& ctx, const MagnitudeSums& a) {
  const Arena::Mark mark(ctx.scratch());
  with_elements(a.x, [&](auto x) { add_columns<decltype(x)>(ctx, a); });
}

void run(Context& ctx, const ExpertNormSums& a) {
  with_elements(a.rows, [&](auto x) {
    add_rows(ctx, a.sums, a.rows.dim(0), a.offsets,
             ExpertNorm<decltype(x)>{.rows = elements<decltype(x)>(a.rows),
                                     .weight = a.weight.ptr<float>(),
                                     .order = a.order.ptr<int32_t>(),
                                     .pitch = a.rows.stride(0),
                                     .weight_pitch = a.weight.stride(0),
                                     .k = a.weight.dim(1),
                                     .width = a.rows.dim(1)});
  });
}

void run(Context& ctx, const CosineDistanceSum& a) {
  add_rows(ctx, a.sum, a.a.dim(0), {}, Turn{streams_of(a.a, a.b)});
}

void run(Context& ctx, const ProductSum& a) {
  add_rows(ctx, a.sum, a.a.dim(0), {}, Product{streams_of(a.a, a.b)});
}

}  // namespace nestling::cuda
