#include "kernels/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/core/rng.h"
#include "kernels/cpu/row_max.h"
#include "kernels/cpu/sweep.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kBlock = 1024;  // weights summed at once: a draw skips over whole blocks

struct Peak {
  float value;  // NaN where any logit is
  int64_t first;
};

Peak find_peak(const float* x, int64_t n) {
  const float top = row_max(x, n);
  if (!std::isfinite(top)) return {.value = top, .first = 0};
  return {.value = top, .first = std::find(x, x + n, top) - x};
}

// weight[i] = e^((x[i] - top) / temperature)
template <class V>
NESTLING_INLINE void soften(const float* x, float top, float temperature, float* weight,
                            int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  int64_t i = 0;
  for (; i + kN <= n; i += kN)
    simd::store(weight + i, simd::exp((simd::load<V>(x + i) - top) / temperature));
  if (i < n) {
    const V w = simd::exp((simd::load_n<V>(x + i, n - i) - top) / temperature);
    simd::store_n(weight + i, w, n - i);
  }
}
void soften_avx2(const float* x, float top, float temperature, float* weight, int64_t n) {
  soften<simd::F8>(x, top, temperature, weight, n);
}
NESTLING_TARGET_AVX512 void soften_avx512(const float* x, float top, float temperature,
                                          float* weight, int64_t n) {
  soften<simd::F16>(x, top, temperature, weight, n);
}

double sum_of(const float* weight, int64_t n) {
  double parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t u = 0; u < 8; ++u) parts[u] += static_cast<double>(weight[i + u]);
  double sum = 0;
  for (double part : parts) sum += part;
  for (; i < n; ++i) sum += static_cast<double>(weight[i]);
  return sum;
}

// Walks the weights in id order: the id where the running sum passes `share` of the whole.
int64_t draw_from_all(const float* weight, int64_t n, double share) {
  double total = 0;
  for (int64_t b = 0; b < n; b += kBlock) total += sum_of(weight + b, std::min(kBlock, n - b));
  const double target = share * total;
  double passed = 0;
  int64_t last = 0;  // the last id of any weight: what rounding at the very end falls back on
  for (int64_t b = 0; b < n; b += kBlock) {
    const int64_t end = std::min(n, b + kBlock);
    const double block = sum_of(weight + b, end - b);
    if (passed + block <= target && end < n) {
      passed += block;
      continue;
    }
    double inside = passed;
    for (int64_t i = b; i < end; ++i) {
      if (weight[i] == 0.0f) continue;
      last = i;
      inside += static_cast<double>(weight[i]);
      if (inside > target) return i;
    }
    passed += block;
  }
  return last;
}

struct Candidate {
  float x;  // its logit: the order of the weights, without their rounding
  float weight;
  int32_t id;
  bool operator<(const Candidate& other) const {
    return x > other.x || (x == other.x && id < other.id);
  }
};

// The ids heavier than `floor` whose logit is at least `least`, in id order.
int64_t gather(const float* x, const float* weight, int64_t n, float floor, float least,
               Candidate* to) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i)
    if (weight[i] > floor && x[i] >= least)
      to[count++] = {x[i], weight[i], static_cast<int32_t>(i)};
  return count;
}

// A logit that at least k of the row reach: the k-th best of its first few. Spares the exact
// selection most of a large vocabulary.
float reached_by(const float* x, int64_t n, int64_t k, Candidate* scratch) {
  const int64_t few = std::min(n, 16 * k);
  auto* copy = reinterpret_cast<float*>(scratch);
  std::copy_n(x, few, copy);
  std::nth_element(copy, copy + k - 1, copy + few, std::greater<>());
  return copy[k - 1];
}

double weight_of(const Candidate* c, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(c[i].weight);
  return sum;
}

// Sorts as many of the best as reach `mass` and returns how many that is: the nucleus.
int64_t nucleus(Candidate* c, int64_t n, double mass) {
  int64_t sorted = 0;
  double sum = 0;
  for (int64_t step = 64; sorted < n; step *= 4) {
    const int64_t end = std::min(n, sorted + step);
    if (end < n) std::nth_element(c + sorted, c + end, c + n);
    std::sort(c + sorted, c + end);
    for (; sorted < end; ++sorted) {
      sum += static_cast<double>(c[sorted].weight);
      if (sum >= mass) return sorted + 1;
    }
  }
  return n;
}

int64_t draw_from_best(const float* x, const float* weight, int64_t n, const SamplingRule& rule,
                       double share, Candidate* c) {
  const bool all = rule.top_k == 0 || rule.top_k >= n;
  double whole = 0;
  float floor = 0.0f;  // an id of weight 0 is never drawn
  if (all) {
    // Ids lighter than (1 - p) of the mean weight sum to less than 1 - p of it all: they are never
    // in the nucleus. Half of that, so that rounding does not come into it.
    for (int64_t b = 0; b < n; b += kBlock) whole += sum_of(weight + b, std::min(kBlock, n - b));
    floor = static_cast<float>((1.0 - double{rule.top_p}) * whole / static_cast<double>(2 * n));
  }
  const float least =
      all ? -std::numeric_limits<float>::infinity() : reached_by(x, n, rule.top_k, c);
  int64_t count = gather(x, weight, n, floor, least, c);
  if (!all && count > rule.top_k) {
    std::nth_element(c, c + rule.top_k, c + count);
    count = rule.top_k;
  }
  // In a fixed order before anything is summed: nth_element leaves its own.
  if (!all) {
    std::sort(c, c + count);
    whole = weight_of(c, count);
  }
  if (rule.top_p < 1.0f) count = nucleus(c, count, double{rule.top_p} * whole);
  const double target = share * weight_of(c, count);
  double passed = 0;
  for (int64_t i = 0; i < count; ++i) {
    passed += static_cast<double>(c[i].weight);
    if (passed > target) return c[i].id;
  }
  return c[count - 1].id;
}

}  // namespace

void run(Context& ctx, const Sample& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t width = a.logits.dim(1);
  const int64_t pitch = a.logits.pitch();
  const auto* logits = a.logits.ptr<float>();
  auto* tokens = a.tokens.ptr<int32_t>();
  const SamplingRule& rule = a.rule;
  const bool greedy = rule.temperature == 0.0f;
  const bool sorted = rule.top_p < 1.0f || (rule.top_k > 0 && rule.top_k < width);
  const int64_t threads = std::min<int64_t>(thread_count(), a.tokens.dim(0));
  float* weights = greedy ? nullptr : ctx.scratch().floats(threads * width);
  Candidate* candidates = nullptr;
  if (!greedy && sorted) {
    const int64_t bytes = threads * width * static_cast<int64_t>(sizeof(Candidate));
    candidates =
        reinterpret_cast<Candidate*>(ctx.scratch().alloc(DType::kU8, {bytes}).ptr<uint8_t>());
  }
  auto* soften_row = cpu_isa() >= CpuIsa::kAvx512 ? soften_avx512 : soften_avx2;
  parallel_for(a.tokens.dim(0), rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* x = logits + b * pitch;
      const Peak peak = find_peak(x, width);
      NESTLING_CHECK(std::isfinite(peak.value), "sample: the largest logit of row ", b, " is ",
                     peak.value);
      int64_t id = peak.first;
      if (!greedy) {
        float* weight = weights + thread_index() * width;
        soften_row(x, peak.value, rule.temperature, weight, width);
        const double share = uniform(a.seed, a.streams[static_cast<size_t>(b)], a.position);
        id = sorted ? draw_from_best(x, weight, width, rule, share,
                                     candidates + thread_index() * width)
                    : draw_from_all(weight, width, share);
      }
      tokens[b] = static_cast<int32_t>(id);
    }
  });
}

}  // namespace nestling::cpu
