// sum.cu - one block adds up the losses of a micro-batch: a few hundred KB at most, read once.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/sum.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 512;

__global__ void add_sum_kernel(double* total, const float* x, int64_t n) {
  double part = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) part += x[i];
  const double sum = block_sum<kThreads>(part);
  if (threadIdx.x == 0) *total += sum;
}

__global__ void count_rows_kernel(double* counts, const int32_t* offsets, int64_t experts) {
  for (int64_t e = first_item(); e < experts; e += item_step())
    counts[e] += offsets[e + 1] - offsets[e];
}

}  // namespace

void run(Context& ctx, const AddSum& a) {
  launch(ctx, {1, kThreads}, add_sum_kernel, a.total.ptr<double>(), a.x.ptr<float>(), a.x.size());
}

void run(Context& ctx, const CountRows& a) {
  launch(ctx, {blocks_for(a.counts.size(), kThreads), kThreads}, count_rows_kernel,
         a.counts.ptr<double>(), a.offsets.ptr<int32_t>(), a.counts.size());
}

}  // namespace nestling::cuda
