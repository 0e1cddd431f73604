#include "kernels/ops/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/row_max.h"
#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kBlock = 1024;  // logits summed in f32; blocks are summed in f64
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Lanes behind n are -infinity: of probability zero.
template <class V>
NESTLING_INLINE V load_logits(const float* p, int64_t n) {
  if (n == simd::kLanesOf<V>) return simd::load<V>(p);
  V v = simd::splat<V>(-kInfinity);
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}

// e = e^(scale (x - top)), to whole vectors; returns its sum.
template <class V>
NESTLING_INLINE double exp_sum(const float* x, int64_t n, float top, float scale, float* e) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  double total = 0;
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t end = std::min(n, b + kBlock);
    V sum[2] = {};
    int64_t i = b;
    for (; i + 2 * kN <= end; i += 2 * kN)
      for (int64_t u = 0; u < 2; ++u) {
        const V v = simd::exp((simd::load<V>(x + i + u * kN) - top) * scale);
        simd::store(e + i + u * kN, v);
        sum[u] += v;
      }
    for (; i < end; i += kN) {
      const V v = simd::exp((load_logits<V>(x + i, std::min(kN, end - i)) - top) * scale);
      simd::store(e + i, v);
      sum[0] += v;
    }
    total += static_cast<double>(simd::sum(sum[0] + sum[1]));
  }
  return total;
}
double exp_sum_avx2(const float* x, int64_t n, float top, float scale, float* e) {
  return exp_sum<simd::F8>(x, n, top, scale, e);
}
NESTLING_TARGET_AVX512 double exp_sum_avx512(const float* x, int64_t n, float top, float scale,
                                             float* e) {
  return exp_sum<simd::F16>(x, n, top, scale, e);
}

// A row of logits softened: log p = (x - top) scale - log_z, p = e share.
struct Softmax {
  const float* x;
  float top;
  float scale;
  double log_z;
  const float* e;
  float share;
};

Softmax soften(const float* x, int64_t n, float top, float scale, float* e) {
  auto* sum = cpu_isa() >= CpuIsa::kAvx512 ? exp_sum_avx512 : exp_sum_avx2;
  const double z = sum(x, n, top, scale, e);
  return {.x = x,
          .top = top,
          .scale = scale,
          .log_z = std::log(z),
          .e = e,
          .share = static_cast<float>(1.0 / z)};
}

template <class V>
NESTLING_INLINE V log_probability(const Softmax& s, int64_t i, int64_t n) {
  return (load_logits<V>(s.x + i, n) - s.top) * s.scale - static_cast<float>(s.log_z);
}
template <class V>
NESTLING_INLINE V probability(const Softmax& s, int64_t i) {
  return simd::load<V>(s.e + i) * s.share;
}

// d + e^-d - 1 by its series, |d| <= 1: the first term left out is below 2^-25 of the first.
template <class V>
NESTLING_INLINE V excess(V d) {
  V p = simd::splat<V>(-1.0f / 39916800.0f);
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

struct Gradient {
  float* to;         // [V], may be the student's logits; nullptr: not wanted
  float ce;          // of softmax(logits), weight and chain rule included
  float kl;          // of q - p, likewise
  bool one_softmax;  // q is softmax(logits): the temperature is 1
};

// One vector: returns the kl's terms, sum p (d + e^-d - 1), and leaves q - p in `difference`.
template <class V>
NESTLING_INLINE V kl_terms(V log_p, V log_q, V p, V q, V& difference) {
  const V d = log_p - log_q;
  const V near = excess(d);
  // One comparison a select: GCC takes masks that are combined apart, lane by lane.
  const V size = simd::max(d, -d);
  difference = simd::select<V>(size <= 1.0f, p * (near - d), q - p);
  const V terms = simd::select<V>(size <= 1.0f, p * near, p * d + (q - p));
  return simd::select<V>(p == 0.0f, q, terms);  // p log p is 0 at p = 0
}

// The kl of one row, and the gradient of the row's loss but for the target's own share.
// plain: softmax(logits); q, p: student and teacher at the temperature (p.x nullptr: no kl).
template <class V>
NESTLING_INLINE double row_loss(const Softmax& plain, const Softmax& q, const Softmax& p,
                                int64_t width, const Gradient& g) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  double kl = 0;
  for (int64_t b = 0; b < width; b += kBlock) {
    V sum = V{};
    const int64_t end = std::min(width, b + kBlock);
    for (int64_t i = b; i < end; i += kN) {
      const int64_t n = std::min(kN, end - i);
      V slope = V{};
      V soft = V{};
      if (p.x != nullptr) {
        const V log_q = log_probability<V>(q, i, n);
        soft = probability<V>(q, i);
        V difference;
        sum +=
            kl_terms<V>(log_probability<V>(p, i, n), log_q, probability<V>(p, i), soft, difference);
        slope = difference * g.kl;
      }
      if (g.to == nullptr) continue;
      if (g.ce != 0.0f) {
        if (p.x == nullptr || !g.one_softmax) soft = probability<V>(plain, i);
        slope += soft * g.ce;
      }
      if (n == kN) {
        simd::store(g.to + i, slope);
      } else {
        simd::store_n(g.to + i, slope, n);
      }
    }
    kl += static_cast<double>(simd::sum(sum));
  }
  return kl;
}
double row_loss_avx2(const Softmax& plain, const Softmax& q, const Softmax& p, int64_t width,
                     const Gradient& g) {
  return row_loss<simd::F8>(plain, q, p, width, g);
}
NESTLING_TARGET_AVX512 double row_loss_avx512(const Softmax& plain, const Softmax& q,
                                              const Softmax& p, int64_t width, const Gradient& g) {
  return row_loss<simd::F16>(plain, q, p, width, g);
}

// What every row of a chunk shares.
struct Chunk {
  const LossRows& a;
  float* logits;
  const float* teacher;
  int64_t width, logits_pitch, teacher_pitch;
  const int32_t* targets;
  const int32_t* kl_tokens;
  float* exponentials;  // [threads, kSoftmaxes, row]
  int64_t row;          // width in whole vectors
};
constexpr int64_t kSoftmaxes = 3;  // the logits', and both at the temperature

template <class T>
const T* pointer(ConstView v) {
  return v ? v.ptr<T>() : nullptr;
}

bool is_arg_max(const float* x, int32_t target, float top) {
  return x[target] == top && std::find(x, x + target, top) == x + target;
}

void run_token(const Chunk& c, int64_t t) {
  const LossRows& a = c.a;
  float* x = c.logits + t * c.logits_pitch;
  const int32_t target = c.targets != nullptr ? c.targets[t] : -1;
  const bool distil = c.teacher != nullptr && (c.kl_tokens == nullptr || c.kl_tokens[t] != 0);
  const float top = row_max(x, c.width);
  float* e = c.exponentials + thread_index() * kSoftmaxes * c.row;
  if (a.correct) a.correct.ptr<int32_t>()[t] = target >= 0 && is_arg_max(x, target, top) ? 1 : 0;

  Softmax plain{};
  double nll = 0;
  if (target >= 0) {
    plain = soften(x, c.width, top, a.logit_scale, e);
    nll = plain.log_z + (static_cast<double>(top) - static_cast<double>(x[target])) *
                            static_cast<double>(a.logit_scale);
  }
  if (a.nll) a.nll.ptr<float>()[t] = static_cast<float>(nll);

  Softmax q{};
  Softmax p{};
  if (distil) {
    const bool done = target >= 0 && a.temperature == 1.0f;
    q = done ? plain : soften(x, c.width, top, a.logit_scale / a.temperature, e + c.row);
    const float* teacher = c.teacher + t * c.teacher_pitch;
    p = soften(teacher, c.width, row_max(teacher, c.width), a.teacher_logit_scale / a.temperature,
               e + 2 * c.row);
  }
  const Gradient g{.to = a.gradient ? x : nullptr,
                   .ce = target >= 0 ? a.ce_weight * a.logit_scale : 0.0f,
                   .kl = a.kl_weight * a.logit_scale / a.temperature,
                   .one_softmax = a.temperature == 1.0f};
  auto* row = cpu_isa() >= CpuIsa::kAvx512 ? row_loss_avx512 : row_loss_avx2;
  const double kl = distil || a.gradient ? row(plain, q, p, c.width, g) : 0.0;
  if (a.kl) a.kl.ptr<float>()[t] = static_cast<float>(kl);
  if (a.gradient && target >= 0) x[target] -= g.ce;
}

}  // namespace

void run(Context& ctx, const LossRows& a) {
  NESTLING_CHECK(!a.half, "head_loss: a bf16 gradient on the CPU, which keeps activations in f32");
  const Arena::Mark mark(ctx.scratch());
  constexpr int64_t kLanes = simd::kLanesOf<simd::F16>;
  const int64_t row = (a.logits.dim(1) + kLanes - 1) / kLanes * kLanes;
  const Chunk c{.a = a,
                .logits = a.logits.ptr<float>(),
                .teacher = pointer<float>(a.teacher),
                .width = a.logits.dim(1),
                .logits_pitch = a.logits.pitch(),
                .teacher_pitch = a.teacher ? a.teacher.pitch() : 0,
                .targets = pointer<int32_t>(a.targets),
                .kl_tokens = pointer<int32_t>(a.kl_tokens),
                .exponentials = ctx.scratch().floats(thread_count() * kSoftmaxes * row),
                .row = row};
  const int64_t rows = a.logits.dim(0);
  for (int64_t t = 0; c.targets != nullptr && t < rows; ++t)
    NESTLING_CHECK(c.targets[t] >= -1 && c.targets[t] < c.width, "head_loss: target ", c.targets[t],
                   " of token ", a.first_token + t, ", the vocabulary has ", c.width);
  parallel_for(rows, rows_per_task(c.width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) run_token(c, t);
  });
}

}  // namespace nestling::cpu
