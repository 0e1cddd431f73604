#include "kernels/ops/gate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kTokensPerTask = 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kSumFloor = 1e-20f;  // beside the sum of the selected, as published

using Picked = std::array<int32_t, kMaxTopK>;

// One token's view of the experts. `mask` and `log_mask` are always there.
struct Gate {
  const float* logits;
  int64_t pitch;
  const float* bias;  // nullptr: none
  const float* mask;
  const float* log_mask;
  int64_t experts, k;
  GateRule rule;
};

// score[e] = what expert e is selected on; s[e] = sigmoid of its logit (sigmoid gates only).
template <class V, bool full>
NESTLING_INLINE void score_step(const Gate& g, const float* logits, float* s, float* score,
                                int64_t e, int64_t n) {
  V c = load_some<V, full>(logits + e, n);
  if (g.rule.kind == GateKind::kSigmoid) {
    c = simd::sigmoid(c);
    store_some<V, full>(s + e, c, n);
    if (g.bias != nullptr) c += load_some<V, full>(g.bias + e, n);
  }
  store_some<V, full>(score + e, c + load_some<V, full>(g.log_mask + e, n), n);
}

template <class V>
NESTLING_INLINE void score_experts(const Gate& g, const float* logits, float* s, float* score) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t e = 0;
  for (; e + kN <= g.experts; e += kN) score_step<V, true>(g, logits, s, score, e, kN);
  if (e < g.experts) score_step<V, false>(g, logits, s, score, e, g.experts - e);
}
void score_avx2(const Gate& g, const float* logits, float* s, float* score) {
  score_experts<simd::F8>(g, logits, s, score);
}
NESTLING_TARGET_AVX512 void score_avx512(const Gate& g, const float* logits, float* s,
                                         float* score) {
  score_experts<simd::F16>(g, logits, s, score);
}

// Outside the best groups every score becomes -infinity. A group counts the sum of its two best;
// where those are equal (no second expert alive in either), its best, then the lower group.
// two, best [groups] are scratch.
void exclude_groups(const Gate& g, float* score, float* two, float* best) {
  const int64_t groups = g.rule.groups;
  const int64_t size = g.experts / groups;
  for (int64_t i = 0; i < groups; ++i) {
    float first = -kInfinity;
    float second = -kInfinity;
    for (int64_t e = i * size; e < (i + 1) * size; ++e) {
      if (score[e] > first) {
        second = first;
        first = score[e];
      } else if (score[e] > second) {
        second = score[e];
      }
    }
    two[i] = size == 1 ? first : first + second;
    best[i] = first;
  }
  const auto better = [&](int64_t i, int64_t j) {
    return two[i] > two[j] || (two[i] == two[j] && best[i] > best[j]);
  };
  for (int64_t i = 0; i < groups; ++i) {
    int64_t beaten_by = 0;
    for (int64_t j = 0; j < groups; ++j)
      beaten_by += better(j, i) || (j < i && !better(i, j)) ? 1 : 0;
    if (beaten_by >= g.rule.top_groups) std::fill_n(score + i * size, size, -kInfinity);
  }
}

// The k largest scores, the lower index first among equals. Returns how many there were: scores of
// -infinity are never picked.
int64_t pick(const float* score, int64_t experts, int64_t k, Picked& picked) {
  std::array<float, kMaxTopK> held;
  int64_t n = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const float x = score[e];
    if (!(x > (n < k ? -kInfinity : held[static_cast<size_t>(k - 1)]))) continue;
    int64_t at = n < k ? n++ : k - 1;
    for (; at > 0 && x > held[static_cast<size_t>(at - 1)]; --at) {
      held[static_cast<size_t>(at)] = held[static_cast<size_t>(at - 1)];
      picked[static_cast<size_t>(at)] = picked[static_cast<size_t>(at - 1)];
    }
    held[static_cast<size_t>(at)] = x;
    picked[static_cast<size_t>(at)] = static_cast<int32_t>(e);
  }
  return n;
}

int64_t select_experts(const Gate& g, const float* logits, float* scratch, Picked& picked) {
  float* s = scratch;
  float* score = s + g.experts;
  float* groups = score + g.experts;
  (cpu_isa() >= CpuIsa::kAvx512 ? score_avx512 : score_avx2)(g, logits, s, score);
  for (int64_t e = 0; e < g.experts; ++e)
    if (std::isnan(score[e])) score[e] = g.mask[e] > 0 ? kInfinity : -kInfinity;
  if (g.rule.groups > 1) exclude_groups(g, score, groups, groups + g.rule.groups);
  return pick(score, g.experts, g.k, picked);
}

int64_t scratch_floats(const Gate& g) {
  return 2 * g.experts + 2 * g.rule.groups + simd::kLanes;
}

// The softmax of a token: q_e = e^(logit_e - shift) / sum, over all living experts, or over the
// selected, so that weights are m_e q_e and d(m_e q_e) / dm_e starts from q_e.
struct Softmax {
  float shift;
  float sum;
  float q(float logit) const { return std::exp(logit - shift) / sum; }
};

bool over_selected(const GateRule& rule) {
  return rule.kind == GateKind::kTopKSoftmax || rule.renormalize;
}

template <class Index>
Softmax softmax_of(const Gate& g, const float* logits, const Index* picked) {
  Softmax x{.shift = -kInfinity, .sum = 0.0f};
  const int64_t n = over_selected(g.rule) ? g.k : g.experts;
  const auto expert = [&](int64_t i) -> int64_t { return over_selected(g.rule) ? picked[i] : i; };
  for (int64_t i = 0; i < n; ++i)
    if (g.mask[expert(i)] > 0) x.shift = std::max(x.shift, logits[expert(i)]);
  for (int64_t i = 0; i < n; ++i)
    if (g.mask[expert(i)] > 0) x.sum += g.mask[expert(i)] * std::exp(logits[expert(i)] - x.shift);
  return x;
}

void weigh(const Gate& g, const float* logits, const float* s, const Picked& picked,
           float* weight) {
  const auto expert = [&](int64_t i) { return picked[static_cast<size_t>(i)]; };
  if (g.rule.kind != GateKind::kSigmoid) {
    const Softmax softmax = softmax_of(g, logits, picked.data());
    for (int64_t i = 0; i < g.k; ++i)
      weight[i] = g.mask[expert(i)] * softmax.q(logits[expert(i)]) * g.rule.scale;
    return;
  }
  float sum = kSumFloor;
  for (int64_t i = 0; i < g.k; ++i) {
    weight[i] = g.mask[expert(i)] * s[expert(i)];
    sum += weight[i];
  }
  const float factor = g.rule.renormalize ? g.rule.scale / sum : g.rule.scale;
  for (int64_t i = 0; i < g.k; ++i) weight[i] *= factor;
}

// dlogits [E] starts as zero; dmask [E] (nullptr: not wanted) are this thread's sums.
void sigmoid_backward(const Gate& g, const float* logits, const int32_t* picked,
                      const float* dweight, float* dlogits, float* dmask) {
  std::array<float, kMaxTopK> s;
  float sum = kSumFloor;
  float dot = 0.0f;  // sum of dweight * mask * s
  for (int64_t i = 0; i < g.k; ++i) {
    const float x = 1.0f / (1.0f + std::exp(-logits[picked[i]]));
    s[static_cast<size_t>(i)] = x;
    sum += g.mask[picked[i]] * x;
    dot += dweight[i] * g.mask[picked[i]] * x;
  }
  const float factor = g.rule.renormalize ? g.rule.scale / sum : g.rule.scale;
  const float pull = g.rule.renormalize ? dot / sum : 0.0f;
  for (int64_t i = 0; i < g.k; ++i) {
    const float x = s[static_cast<size_t>(i)];
    const float du = (dweight[i] - pull) * factor;  // of mask * s
    dlogits[picked[i]] = du * g.mask[picked[i]] * x * (1.0f - x);
    if (dmask != nullptr) dmask[picked[i]] += du * x;
  }
}

void softmax_backward(const Gate& g, const float* logits, const int32_t* picked,
                      const float* dweight, float* dlogits, float* dmask) {
  const Softmax softmax = softmax_of(g, logits, picked);
  float dot = 0.0f;  // sum of dweight * weight / scale
  for (int64_t i = 0; i < g.k; ++i)
    dot += dweight[i] * g.mask[picked[i]] * softmax.q(logits[picked[i]]);
  // Experts that were not selected take part through the sum alone.
  if (!over_selected(g.rule)) {
    for (int64_t e = 0; e < g.experts; ++e) {
      const float slope = -softmax.q(logits[e]) * dot * g.rule.scale;
      dlogits[e] = g.mask[e] > 0 ? slope * g.mask[e] : 0.0f;
      if (dmask != nullptr) dmask[e] += slope;
    }
    dot = 0.0f;
  }
  for (int64_t i = 0; i < g.k; ++i) {
    const int32_t e = picked[i];
    const float slope = softmax.q(logits[e]) * (dweight[i] - dot) * g.rule.scale;
    dlogits[e] += slope * g.mask[e];
    if (dmask != nullptr) dmask[e] += slope;
  }
}

// mask and its logarithm [E] in scratch; all ones where there is no mask.
void fill_masks(Context& ctx, ConstView mask, Gate& g) {
  float* m = ctx.scratch().floats(g.experts);
  float* log_m = ctx.scratch().floats(g.experts);
  for (int64_t e = 0; e < g.experts; ++e) {
    m[e] = mask ? mask.ptr<float>()[e] : 1.0f;
    log_m[e] = std::log(m[e]);  // log 1 is exactly 0, log 0 -infinity
  }
  g.mask = m;
  g.log_mask = log_m;
}

// The first token some thread could not serve, or `tokens`.
int64_t first_failure(const int64_t* failed, int threads, int64_t tokens) {
  int64_t first = tokens;
  for (int i = 0; i < threads; ++i) first = std::min(first, failed[i]);
  return first;
}

Gate make_gate(Context& ctx, ConstView logits, ConstView mask, int64_t k, const GateRule& rule) {
  Gate g{.logits = logits.ptr<float>(),
         .pitch = logits.pitch(),
         .bias = nullptr,
         .mask = nullptr,
         .log_mask = nullptr,
         .experts = logits.dim(1),
         .k = k,
         .rule = rule};
  fill_masks(ctx, mask, g);
  return g;
}

}  // namespace

void run(Context& ctx, const GateForward& a) {
  const Arena::Mark mark(ctx.scratch());
  Gate g = make_gate(ctx, a.logits, a.mask, a.weight.dim(1), a.rule);
  if (a.bias) g.bias = a.bias.ptr<float>();
  const int64_t tokens = a.logits.dim(0);
  const int64_t stride = scratch_floats(g);
  const int threads = thread_count();
  float* scratch = ctx.scratch().floats(threads * stride);
  auto* failed = ctx.scratch().alloc(DType::kI64, {threads}).ptr<int64_t>();
  std::fill_n(failed, threads, tokens);
  auto* index = a.index.ptr<int32_t>();
  auto* weight = a.weight.ptr<float>();
  const int64_t index_pitch = a.index.pitch();
  const int64_t weight_pitch = a.weight.pitch();
  parallel_for(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    float* own = scratch + thread_index() * stride;
    for (int64_t t = begin; t < end; ++t) {
      Picked picked;
      const float* logits = g.logits + t * g.pitch;
      if (select_experts(g, logits, own, picked) < g.k) {
        failed[thread_index()] = t;
        return;
      }
      std::copy_n(picked.begin(), g.k, index + t * index_pitch);
      weigh(g, logits, own, picked, weight + t * weight_pitch);
    }
  });
  const int64_t t = first_failure(failed, threads, tokens);
  if (t == tokens) return;
  Picked picked;
  const int64_t found = select_experts(g, g.logits + t * g.pitch, scratch, picked);
  throw Error(str("gate_forward: token ", t, " can go to ", found, " of ", g.experts,
                  " experts (mask above 0, score above -infinity), needs ", g.k));
}

void run(Context& ctx, const GateBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const Gate g = make_gate(ctx, a.logits, a.mask, a.dweight.dim(1), a.rule);
  const int threads = thread_count();
  const int64_t stride = g.experts + simd::kLanes;
  float* parts = ctx.scratch().floats(threads * stride);  // dmask, thread by thread
  std::fill_n(parts, threads * stride, 0.0f);
  const auto* index = a.index.ptr<int32_t>();
  const auto* dweight = a.dweight.ptr<float>();
  auto* dlogits = a.dlogits.ptr<float>();
  const int64_t index_pitch = a.index.pitch();
  const int64_t dweight_pitch = a.dweight.pitch();
  const int64_t dlogits_pitch = a.dlogits.pitch();
  auto* token_backward = a.rule.kind == GateKind::kSigmoid ? sigmoid_backward : softmax_backward;
  parallel_for(a.logits.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    float* dmask = a.dmask ? parts + thread_index() * stride : nullptr;
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* picked = index + t * index_pitch;
      for (int64_t i = 0; i < g.k; ++i)
        NESTLING_CHECK(picked[i] >= 0 && picked[i] < g.experts, "gate_backward: token ", t,
                       " has expert ", picked[i], " of ", g.experts);
      float* to = dlogits + t * dlogits_pitch;
      std::fill_n(to, g.experts, 0.0f);
      token_backward(g, g.logits + t * g.pitch, picked, dweight + t * dweight_pitch, to, dmask);
    }
  });
  if (!a.dmask) return;
  auto* dmask = a.dmask.ptr<float>();
  for (int i = 0; i < threads; ++i)
    for (int64_t e = 0; e < g.experts; ++e) dmask[e] += parts[i * stride + e];
}

}  // namespace nestling::cpu
