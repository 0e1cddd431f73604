// One token of the scan: the state is read and written once, which is all the time it takes.
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/cpu/scan_groups.h"
#include "kernels/ops/scan.h"

namespace nestling::cpu {

namespace {

using namespace scan;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Step {
  Target y;
  States state;
  Source x, dt_raw;
  const float* A_log;
  const float* D;
  const float* dt_bias;
  const float* B;  // [B, G, pitch] gathered, zero behind N
  const float* C;
  int64_t heads, channels, n, groups, pitch;
};

// One channel's row: s = decay s + input B, and the dot product with C.
template <class V>
NESTLING_INLINE float advance_row(float* s, const float* B, const float* C, float decay,
                                  float input, int64_t n) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  V sums[2] = {};
  int64_t i = 0;
  for (; i + kN <= n; i += kN) {
    const V v = simd::load<V>(s + i) * decay + input * simd::load<V>(B + i);
    simd::store(s + i, v);
    sums[i / kN % 2] += v * simd::load<V>(C + i);
  }
  if (i < n) {
    const V v = simd::load_n<V>(s + i, n - i) * decay + input * simd::load<V>(B + i);
    simd::store_n(s + i, v, n - i);
    sums[0] += v * simd::load<V>(C + i);
  }
  return simd::sum(sums[0] + sums[1]);
}

template <class V>
NESTLING_INLINE void step_head(const Step& f, int64_t b, int64_t h) {
  const float raw = f.dt_raw.data[b * f.dt_raw.token + h] + f.dt_bias[h];
  const float dt = std::fmax(raw, 0.0f) + std::log1p(std::exp(-std::fabs(raw)));
  const float decay = std::exp(-std::exp(f.A_log[h]) * dt);
  const float* x = f.x.data + b * f.x.token + h * f.x.other;
  float* y = f.y.data + b * f.y.token + h * f.y.other;
  const int64_t at = (b * f.groups + h % f.groups) * f.pitch;
  float* state = f.state.at(b, {h, 0, f.channels});
  for (int64_t p = 0; p < f.channels; ++p) {
    const float xp = x[p];  // y may be x
    y[p] = advance_row<V>(state + p * f.state.channel, f.B + at, f.C + at, decay, dt * xp, f.n) +
           f.D[h] * xp;
  }
}
void step_avx2(const Step& f, int64_t b, int64_t h) {
  step_head<simd::F8>(f, b, h);
}
NESTLING_TARGET_AVX512 void step_avx512(const Step& f, int64_t b, int64_t h) {
  step_head<simd::F16>(f, b, h);
}

}  // namespace

void run(Context& ctx, const ScanStep& a) {
  const int64_t sequences = a.x.dim(0);
  const int64_t groups = a.B.dim(2);
  const int64_t n = a.B.dim(1);
  const int64_t pitch = padded(n);
  const Arena::Mark mark(ctx.scratch());
  float* B = ctx.scratch().floats(2 * sequences * groups * pitch);
  float* C = B + sequences * groups * pitch;
  for (int64_t b = 0; b < sequences; ++b)
    for (const auto& [to, from] : {std::pair(B, a.B), std::pair(C, a.C)})
      gather_groups<simd::F8>({to + b * groups * pitch, pitch, pitch, 0, groups}, source(from), b,
                              1, n);
  const Step f{.y = target(a.y),
               .state = states(a.state),
               .x = source(a.x),
               .dt_raw = source(a.dt_raw),
               .A_log = a.A_log.ptr<float>(),
               .D = a.D.ptr<float>(),
               .dt_bias = a.dt_bias.ptr<float>(),
               .B = B,
               .C = C,
               .heads = a.x.dim(1),
               .channels = a.x.dim(2),
               .n = n,
               .groups = groups,
               .pitch = pitch};
  auto* head = cpu_isa() >= CpuIsa::kAvx512 ? step_avx512 : step_avx2;
  parallel_for(sequences * f.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) head(f, i / f.heads, i % f.heads);
  });
}

}  // namespace nestling::cpu
