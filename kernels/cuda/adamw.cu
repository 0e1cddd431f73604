// adamw.cu - AdamW and the gradient norm over any number of tensors, one launch each: a block looks
// up the tensor its chunk belongs to in a table sent along with the launch. The norm stays on the device until
// somebody asks.
//
// Packs         chunks of tensors whose rows allow it are taken four elements at a time; tensors without gaps are one
//               row, whose elements are found without a division. There it is the chunk's length that decides, not the
//               tensor's: a chunk has the same sum wherever the tensor is cut.
#include <cmath>
#include <vector>

#include <cuda_bf16.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/adamw.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = kNormBlock;  // elements a block

struct Entry {
  float* master = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  const float* grad = nullptr;
  __nv_bfloat16* low = nullptr;  // null: none
  int64_t first_chunk = 0;       // of this tensor among all
  int64_t size = 0;
  int64_t cols = 0;  // element i: row i / cols, column i % cols; 0: all is one row
  int64_t grad_pitch = 0;
  int64_t low_pitch = 0;
  float lr = 0.0f;
  float decay = 0.0f;
  bool packs = false;

  // Where element i lies in a matrix of this pitch.
  __device__ int64_t at(int64_t i, int64_t pitch) const {
    return cols == 0 ? i : i / cols * pitch + i % cols;
  }
  __device__ bool takes_packs(int64_t elements) const { return packs && elements % 4 == 0; }
};

struct Step {
  const Entry* entries;
  int64_t tensors;
  float beta1, beta2, eps, grad_scale;
  float correction1, correction2;  // 1 - beta^t
};

// The tensor of a chunk: the last whose first chunk is not behind it.
__device__ const Entry& entry_of(const Entry* entries, int64_t tensors, int64_t chunk) {
  int64_t low = 0;
  int64_t high = tensors - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (entries[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle - 1;
  }
  return entries[low];
}

// The elements of a block's chunk that are this thread's, kN at a time.
template <int kN>
__device__ void update(const Entry& e, const Step& s, int64_t begin, int64_t end) {
  for (int64_t i = begin + threadIdx.x * kN; i < end; i += kThreads * kN) {
    const Pack<kN> grad = load_pack<kN>(e.grad + e.at(i, e.grad_pitch));
    Pack<kN> m = load_pack<kN>(e.m + i);
    Pack<kN> v = load_pack<kN>(e.v + i);
    Pack<kN> w = load_pack<kN>(e.master + i);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float g = grad.v[n] * s.grad_scale;
      m.v[n] = s.beta1 * m.v[n] + (1.0f - s.beta1) * g;
      v.v[n] = s.beta2 * v.v[n] + (1.0f - s.beta2) * g * g;
      const float step = (m.v[n] / s.correction1) / (sqrtf(v.v[n] / s.correction2) + s.eps);
      w.v[n] -= e.lr * (step + e.decay * w.v[n]);
    }
    store_pack(e.m + i, m);
    store_pack(e.v + i, v);
    store_pack(e.master + i, w);
    if (e.low != nullptr) store_pack(e.low + e.at(i, e.low_pitch), w);
  }
}

__global__ void __launch_bounds__(kThreads) adamw_kernel(Step s) {
  const Entry e = entry_of(s.entries, s.tensors, blockIdx.x);
  const int64_t begin = (blockIdx.x - e.first_chunk) * kChunk;
  const int64_t end = min(e.size, begin + kChunk);
  if (e.takes_packs(end - begin))
    update<4>(e, s, begin, end);
  else
    update<1>(e, s, begin, end);
}

template <int kN>
__device__ double squares(const Entry& e, int64_t begin, int64_t end) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * kN; i < end; i += kThreads * kN) {
    const Pack<kN> grad = load_pack<kN>(e.grad + e.at(i, e.grad_pitch));
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const double g = grad.v[n];
      sum += g * g;
    }
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    squares_kernel(double* parts, const Entry* entries, int64_t tensors) {
  const Entry e = entry_of(entries, tensors, blockIdx.x);
  const int64_t begin = (blockIdx.x - e.first_chunk) * kChunk;
  const int64_t end = min(e.size, begin + kChunk);
  const double sum = block_sum<kThreads>(e.takes_packs(end - begin) ? squares<4>(e, begin, end)
                                                                    : squares<1>(e, begin, end));
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block: the parts are as many as chunks, thousands for a large model.
__global__ void norm_kernel(double* norm, const double* parts, int64_t count) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

// 0 where neither has gaps, or there is but one row.
int64_t cols_of(ConstView grad, ConstView low) {
  if (grad.dense() && (!low || low.dense())) return 0;
  return grad.dim(grad.rank() - 1);
}
// Whether chunks of the tensor can be taken in packs of four, if they are of a multiple of four elements.
bool packs_of(const Entry& e) {
  const int64_t low_pitch = e.cols == 0 ? 0 : e.low_pitch;
  const int64_t grad_pitch = e.cols == 0 ? 0 : e.grad_pitch;
  return e.cols % 4 == 0 && packable(e.master, 0) && packable(e.m, 0) && packable(e.v, 0) &&
         packable(e.grad, grad_pitch) && packable(e.low, low_pitch);
}

}  // namespace

void run(Context& ctx, const AdamWStep& a) {
  std::vector<Entry> entries;
  int64_t chunks = 0;
  for (const AdamWTensor& t : a.tensors) {
    if (t.master.size() == 0) continue;
    entries.push_back({.master = t.master.ptr<float>(),
                       .m = t.m.ptr<float>(),
                       .v = t.v.ptr<float>(),
                       .grad = t.grad.ptr<float>(),
                       .low = t.low ? reinterpret_cast<__nv_bfloat16*>(t.low.ptr<bf16>()) : nullptr,
                       .first_chunk = chunks,
                       .size = t.master.size(),
                       .cols = cols_of(t.grad, t.low),
                       .grad_pitch = t.grad.pitch(),
                       .low_pitch = t.low ? t.low.pitch() : 0,
                       .lr = t.lr,
                       .decay = t.decay});
    entries.back().packs = packs_of(entries.back());
    chunks += norm_blocks(t.master.size());
  }
  if (chunks == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const auto t = static_cast<double>(a.step);
  const Step step{.entries = upload(ctx, entries),
                  .tensors = static_cast<int64_t>(entries.size()),
                  .beta1 = a.beta1,
                  .beta2 = a.beta2,
                  .eps = a.eps,
                  .grad_scale = a.grad_scale,
                  .correction1 = static_cast<float>(1.0 - std::pow(double{a.beta1}, t)),
                  .correction2 = static_cast<float>(1.0 - std::pow(double{a.beta2}, t))};
  launch(ctx, {static_cast<unsigned>(chunks), kThreads}, adamw_kernel, step);
}

void run(Context& ctx, const SquareSums& a) {
  std::vector<Entry> entries;
  int64_t chunks = 0;
  for (const ConstView& g : a.grads) {
    if (g.size() == 0) continue;
    entries.push_back({.grad = g.ptr<float>(),
                       .first_chunk = chunks,
                       .size = g.size(),
                       .cols = cols_of(g, {}),
                       .grad_pitch = g.pitch()});
    entries.back().packs = packs_of(entries.back());
    chunks += norm_blocks(g.size());
  }
  if (chunks == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const Entry* table = upload(ctx, entries);
  launch(ctx, {static_cast<unsigned>(chunks), kThreads}, squares_kernel, a.sums.ptr<double>(),
         table, static_cast<int64_t>(entries.size()));
}

void run(Context& ctx, const NormOfSums& a) {
  launch(ctx, {1, kThreads}, norm_kernel, a.norm.ptr<double>(), a.sums.ptr<double>(),
         a.sums.size());
}

}  // namespace nestling::cuda
