// loss.cu - the losses of rows of logits and their gradient in place, one block a row.
//
// Passes        one over the row for the sums of exponentials of student and teacher (online: the
//               largest logit so far is subtracted, sums are rescaled when it rises), one that
//               writes the gradient and sums the kl. The exponentials are computed again rather than
//               kept: at V = 131072 they would be a third of the traffic.
//               The first goes from the end of the row to its beginning, where the second finds what is
//               still in the L2 cache.
// In flight     a thread takes kAtOnce runs of four logits at a time, all loaded before the first is used.
// Sums          f32 in a thread (V / 512 terms), f64 over the threads of a row.
// Bytes         8 V read and 4 V written a row, 2 V if the gradient is bf16; a teacher reads 8 V more. Rows
//               that start on 16 bytes are read by four.
// In place      a bf16 gradient overwrites logits ahead of those that it is of, so the block meets between
//               reading and writing: what is overwritten has been read in this round or before.
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/loss.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kAtOnce = 4;

struct Rows {
  float* logits;
  const float* teacher;  // null: no kl
  const int32_t* targets;
  const int32_t* kl_tokens;
  float* nll;
  float* kl;
  int32_t* correct;
  int64_t logits_pitch, teacher_pitch, width;
  float ce_weight, kl_weight, temperature, logit_scale, teacher_logit_scale;
  int64_t first_token;
  bool gradient;
  FaultWord* fault;
};

// kRuns runs of kRun neighbours that a thread takes at a time, kStep<kRun> apart.
template <int kRun>
inline constexpr int64_t kStep = int64_t{kThreads} * kRun;
template <int kRun, int kRuns>
struct Part {
  Pack<kRun> run[kRuns];

  __device__ void load(const float* from) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) run[r] = load_pack<kRun>(from + r * kStep<kRun>);
  }
  // body(x, the how many-th element behind the first x is)
  template <class Body>
  __device__ void each(Body&& body) const {
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
#pragma unroll
      for (int u = 0; u < kRun; ++u) body(run[r].v[u], r * kStep<kRun> + u);
  }
  __device__ float largest() const {
    float top = run[0].v[0];
    each([&](float x, int64_t) { top = fmaxf(top, x); });
    return top;
  }
};

// body(Part, i) over the row, its end first: what is left of the parts, run by run and one by one, then the parts.
template <int kRun, class Body>
__device__ void over_row(int64_t width, Body&& body) {
  constexpr int64_t kTurn = kStep<kRun> * kAtOnce;
  const int64_t turns = width / kTurn;
  const int64_t whole = width / kRun * kRun;
  const int64_t own = int64_t{threadIdx.x} * kRun;
  if (kRun > 1 && whole + threadIdx.x < width) body(Part<1, 1>{}, whole + threadIdx.x);
  for (int64_t i = turns * kTurn + own; i < whole; i += kStep<kRun>) body(Part<kRun, 1>{}, i);
  for (int64_t i = (turns - 1) * kTurn + own; i >= 0; i -= kTurn) body(Part<kRun, kAtOnce>{}, i);
}

// Online softmax: the largest logit so far, and the sum of 2^(rate (x - top)).
struct Sum {
  float top = kLowestScore;
  float total = 0.0f;
};
template <class Part>
__device__ void add(Sum& sum, const Part& part, float top, float rate) {
  if (top > sum.top) {
    sum.total *= fast_exp2((sum.top - top) * rate);
    sum.top = top;
  }
  part.each([&](float x, int64_t) { sum.total += fast_exp2((x - sum.top) * rate); });
}

// The softmax of a row: log p = (x - top) scale - log_z, p = e^((x - top) scale) share; scale = rate / log2(e).
struct Softmax {
  float top, scale, rate, log_z, share;
  double exact_log_z;
};
// The largest over the block. Barriers as in block_sum.
__device__ float block_max(float x) {
  __shared__ float parts[kThreads / kWarp];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  float top = parts[0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarp; ++w) top = fmaxf(top, parts[w]);
  return top;
}
// From the thread's part of the row.
__device__ Softmax finish_softmax(const Sum& part, float scale) {
  const float top = block_max(part.top);
  const double z = block_sum<kThreads>(double{part.total} * double{expf((part.top - top) * scale)});
  const double log_z = log(z);
  return {.top = top,
          .scale = scale,
          .rate = scale * kLog2E,
          .log_z = static_cast<float>(log_z),
          .share = static_cast<float>(1.0 / z),
          .exact_log_z = log_z};
}
__device__ float shifted(const Softmax& s, float x) {
  return (x - s.top) * s.scale;
}
__device__ float probability(const Softmax& s, float x) {
  return fast_exp2((x - s.top) * s.rate) * s.share;
}

// d + e^-d - 1 by its series, |d| <= 1: the first term left out is below 2^-25 of the first.
__device__ float excess(float d) {
  float p = -1.0f / 39916800.0f;
  p = p * d + 1.0f / 3628800.0f;
  p = p * d - 1.0f / 362880.0f;
  p = p * d + 1.0f / 40320.0f;
  p = p * d - 1.0f / 5040.0f;
  p = p * d + 1.0f / 720.0f;
  p = p * d - 1.0f / 120.0f;
  p = p * d + 1.0f / 24.0f;
  p = p * d - 1.0f / 6.0f;
  p = p * d + 0.5f;
  return p * d * d;
}

// One logit's term of the kl, p (d + e^-d - 1) with d = log p - log q; q - p goes to `difference`.
__device__ float kl_term(float log_p, float log_q, float p, float q, float& difference) {
  const float d = log_p - log_q;
  const bool near = fabsf(d) <= 1.0f;
  const float small = excess(d);
  difference = near ? p * (small - d) : q - p;
  if (p == 0.0f) return q;  // p log p is 0 at p = 0
  return near ? p * small : p * d + (q - p);
}

// The softmaxes that the loss of a row needs.
struct RowSoftmax {
  Softmax plain;  // of the logits: needs a target
  Softmax q, p;   // student and teacher at the temperature
};

// `unbeaten`: the target's logit is the largest, and the first of equals.
template <int kRun>
__device__ RowSoftmax sum_row(const Rows& r, const float* x, const float* teacher, int64_t target,
                              bool& unbeaten) {
  const bool soft = teacher != nullptr && (target < 0 || r.temperature != 1.0f);
  const float scale_q = r.logit_scale / r.temperature;
  const float scale_p = r.teacher_logit_scale / r.temperature;
  const float goal = target >= 0 ? x[target] : 0.0f;
  Sum plain;
  Sum q;
  Sum p;
  bool beaten = false;
  over_row<kRun>(r.width, [&](auto part, int64_t i) {
    auto other = part;
    part.load(x + i);
    if (teacher != nullptr) other.load(teacher + i);
    const float top = part.largest();
    if (target >= 0) {
      add(plain, part, top, r.logit_scale * kLog2E);
      bool near = false;  // of these one may beat the target; so written that NaN beats all
      part.each([&](float value, int64_t) { near |= !(value < goal); });
      if (near && !beaten)
        part.each([&](float value, int64_t at) {
          beaten |= i + at < target ? !(value < goal) : !(value <= goal);
        });
    }
    if (soft) add(q, part, top, scale_q * kLog2E);
    if (teacher != nullptr) add(p, other, other.largest(), scale_p * kLog2E);
  });
  unbeaten = __syncthreads_or(beaten) == 0;
  RowSoftmax s{};
  if (target >= 0) s.plain = finish_softmax(plain, r.logit_scale);
  if (teacher != nullptr) {
    s.q = soft ? finish_softmax(q, scale_q) : s.plain;
    s.p = finish_softmax(p, scale_p);
  }
  return s;
}

// The slopes of a row's logits, and this thread's part of its kl.
struct Slopes {
  const RowSoftmax& s;
  int64_t target;
  float ce, kl_slope;
  float kl = 0.0f;

  // Logits from i on, beside the teacher's if there is one, become their gradient.
  template <int kN>
  __device__ void replace(Pack<kN>& run, const Pack<kN>& other, bool distil, int64_t i) {
#pragma unroll
    for (int u = 0; u < kN; ++u) {
      float slope = 0.0f;
      if (distil) {
        const float log_q = shifted(s.q, run.v[u]) - s.q.log_z;
        const float log_p = shifted(s.p, other.v[u]) - s.p.log_z;
        float difference;
        kl += kl_term(log_p, log_q, probability(s.p, other.v[u]), probability(s.q, run.v[u]),
                      difference);
        slope = difference * kl_slope;
      }
      if (ce != 0.0f) slope += probability(s.plain, run.v[u]) * ce;
      run.v[u] = slope;
    }
    if (target < i || target >= i + kN) return;
#pragma unroll
    for (int u = 0; u < kN; ++u)
      if (i + u == target) run.v[u] -= ce;
  }
};

// Writes the gradient over x, and returns this thread's part of the kl.
template <class G, int kRun>
__device__ float finish_row(const Rows& r, float* x, const float* teacher, int64_t target,
                            const RowSoftmax& s) {
  constexpr bool kMeets = sizeof(G) != sizeof(float);
  auto* gradient = reinterpret_cast<G*>(x);
  Slopes slopes{.s = s,
                .target = target,
                .ce = target >= 0 ? r.ce_weight * r.logit_scale : 0.0f,
                .kl_slope = r.kl_weight * r.logit_scale / r.temperature};
  const bool distil = teacher != nullptr;
  if (!distil) teacher = x;  // something to point to
  const int64_t whole = r.width / kRun * kRun;
  const int64_t left = whole + threadIdx.x;  // of this thread, if the row has it
  Pack<1> one{};
  if (left < r.width) {
    one = load_pack<1>(x + left);
    slopes.replace(one, load_whole<1>(teacher + left, distil), distil, left);
  }
  for (int64_t first = 0; first < whole; first += kStep<kRun> * kAtOnce) {
    const int64_t i = first + int64_t{threadIdx.x} * kRun;
    Pack<kRun> run[kAtOnce], other[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t at = i + k * kStep<kRun>;
      run[k] = load_whole<kRun>(x + at, at < whole);
      other[k] = load_whole<kRun>(teacher + at, distil && at < whole);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t at = i + k * kStep<kRun>;
      if (at < whole) slopes.replace(run[k], other[k], distil, at);
    }
    if constexpr (kMeets) __syncthreads();
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t at = i + k * kStep<kRun>;
      if (r.gradient && at < whole) store_pack<kRun>(gradient + at, run[k]);
    }
  }
  if constexpr (kMeets) __syncthreads();
  if (r.gradient && left < r.width) store_pack<1>(gradient + left, one);
  return slopes.kl;
}

template <class G, int kRun>
__global__ void __launch_bounds__(kThreads, 2) loss_kernel(Rows r) {
  const int64_t t = blockIdx.x;
  float* x = r.logits + t * r.logits_pitch;
  const bool distil = r.teacher != nullptr && (r.kl_tokens == nullptr || r.kl_tokens[t] != 0);
  const float* teacher = distil ? r.teacher + t * r.teacher_pitch : nullptr;
  int64_t target = r.targets != nullptr ? r.targets[t] : -1;
  if (target < -1 || target >= r.width) {
    if (threadIdx.x == 0) report_fault(r.fault, FaultKind::kTarget, r.first_token + t);
    target = -1;
  }
  bool unbeaten = false;
  RowSoftmax s{};
  if (target >= 0 || distil) s = sum_row<kRun>(r, x, teacher, target, unbeaten);
  if (threadIdx.x == 0) {
    if (r.correct != nullptr) r.correct[t] = target >= 0 && unbeaten ? 1 : 0;
    if (r.nll != nullptr)
      r.nll[t] =
          target < 0
              ? 0.0f
              : static_cast<float>(s.plain.exact_log_z + (double{s.plain.top} - double{x[target]}) *
                                                             double{r.logit_scale});
  }
  __syncthreads();  // x[target] has been read
  float kl_part = 0.0f;
  if (distil || r.gradient) kl_part = finish_row<G, kRun>(r, x, teacher, target, s);
  const double kl = block_sum<kThreads>(double{kl_part});
  if (threadIdx.x == 0 && r.kl != nullptr) r.kl[t] = static_cast<float>(kl);
}

template <class T, class V>
auto optional(V v) {
  return v ? v.template ptr<T>() : nullptr;
}

}  // namespace

void run(Context& ctx, const LossRows& a) {
  const int64_t rows = a.logits.dim(0);
  const Rows r{.logits = a.logits.ptr<float>(),
               .teacher = optional_floats(a.teacher),
               .targets = optional<int32_t>(a.targets),
               .kl_tokens = optional<int32_t>(a.kl_tokens),
               .nll = optional_floats(a.nll),
               .kl = optional_floats(a.kl),
               .correct = optional<int32_t>(a.correct),
               .logits_pitch = a.logits.pitch(),
               .teacher_pitch = a.teacher ? a.teacher.pitch() : 0,
               .width = a.logits.dim(1),
               .ce_weight = a.ce_weight,
               .kl_weight = a.kl_weight,
               .temperature = a.temperature,
               .logit_scale = a.logit_scale,
               .teacher_logit_scale = a.teacher_logit_scale,
               .first_token = a.first_token,
               .gradient = a.gradient,
               .fault = ctx.cuda().fault};
  const Grid grid{.blocks = dim3(static_cast<unsigned>(rows)), .threads = kThreads};
  const bool runs =
      rows_aligned(a.logits, sizeof(float4)) && rows_aligned(a.teacher, sizeof(float4));
  if (a.half)
    launch(ctx, grid, runs ? loss_kernel<__nv_bfloat16, 4> : loss_kernel<__nv_bfloat16, 1>, r);
  else
    launch(ctx, grid, runs ? loss_kernel<float, 4> : loss_kernel<float, 1>, r);
}

}  // namespace nestling::cuda
