#include "kernels/ops/rope.h"

#include <algorithm>
#include <bit>

#include "kernels/core/parallel.h"
#include "kernels/core/simd.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kTokensPerTask = 16;

struct Turn {
  float* x;
  int64_t token_pitch, head_pitch, heads, half;
  const float* inv_freq;
  double sign;  // of the angle
};

// Positions of tokens, one after another.
class Positions {
 public:
  Positions(const Rope& a, int64_t token) : segments_(a.segments), starts_(a.starts) {
    const auto offsets = segments_.offsets();
    segment_ = std::upper_bound(offsets.begin(), offsets.end(), token) - offsets.begin() - 1;
  }
  int64_t of(int64_t token) {
    if (token == segments_.end(segment_)) ++segment_;
    const int64_t start = starts_.empty() ? 0 : starts_[static_cast<size_t>(segment_)];
    return start + token - segments_.begin(segment_);
  }

 private:
  Segments segments_;
  std::span<const int32_t> starts_;
  int64_t segment_;
};

// cos and sin of position * inv_freq, correct to f32: the angle minus the nearest multiple of pi/2
// (in two parts; the fused products make it exact to 1e-16 for any position), then Taylor sums on
// [-pi/4, pi/4] with a remainder below 2e-12. Branch-free, so that the loop becomes vectors.
NESTLING_INLINE void angles(const Turn& a, double position, float* cosines, float* sines) {
  constexpr double kHalfPiHigh = 1.5707963267948966;
  constexpr double kHalfPiLow = 6.123233995736766e-17;
  constexpr double kTwoOverPi = 0.6366197723675814;
  constexpr double kMagic = 0x1.8p52;  // adding it rounds to an integer, kept in the low bits
  for (int64_t i = 0; i < a.half; ++i) {
    const double angle = position * static_cast<double>(a.inv_freq[i]);
    const double shifted = angle * kTwoOverPi + kMagic;
    const double turns = shifted - kMagic;
    const auto quadrant = std::bit_cast<uint64_t>(shifted);
    const double r = (angle - turns * kHalfPiHigh) - turns * kHalfPiLow;
    const double z = r * r;
    double s = 1.0 / 6227020800;
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = s * z * r + r;
    double c = 1.0 / 479001600;
    c = c * z - 1.0 / 3628800;
    c = c * z + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = c * z - 0.5;
    c = c * z + 1.0;
    // Odd quadrants swap the two, quadrants 2 and 3 (sine) or 1 and 2 (cosine) negate: on bits, for
    // a ternary of doubles stays a branch.
    const auto sine = std::bit_cast<uint64_t>(s);
    const auto cosine = std::bit_cast<uint64_t>(c);
    const uint64_t swap = (sine ^ cosine) & (0 - (quadrant & 1));
    sines[i] = static_cast<float>(std::bit_cast<double>((sine ^ swap) ^ (quadrant & 2) << 62));
    cosines[i] =
        static_cast<float>(std::bit_cast<double>((cosine ^ swap) ^ ((quadrant + 1) & 2) << 62));
  }
}

template <class V>
NESTLING_INLINE void turn_tokens(const Turn& a, Positions at, int64_t begin, int64_t end,
                                 float* cosines) {
  constexpr int64_t kN = simd::kLanesOf<V>;
  float* sines = cosines + a.half;
  for (int64_t t = begin; t < end; ++t) {
    angles(a, a.sign * static_cast<double>(at.of(t)), cosines, sines);
    for (int64_t head = 0; head < a.heads; ++head) {
      float* low = a.x + t * a.token_pitch + head * a.head_pitch;
      float* high = low + a.half;
      int64_t i = 0;
      for (; i + kN <= a.half; i += kN) {
        const V c = simd::load<V>(cosines + i);
        const V s = simd::load<V>(sines + i);
        const V u = simd::load<V>(low + i);
        const V v = simd::load<V>(high + i);
        simd::store(low + i, u * c - v * s);
        simd::store(high + i, v * c + u * s);
      }
      for (; i < a.half; ++i) {
        const float u = low[i];
        const float v = high[i];
        low[i] = u * cosines[i] - v * sines[i];
        high[i] = v * cosines[i] + u * sines[i];
      }
    }
  }
}
void turn_avx2(const Turn& a, const Positions& at, int64_t begin, int64_t end, float* cosines) {
  turn_tokens<simd::F8>(a, at, begin, end, cosines);
}
NESTLING_TARGET_AVX512 void turn_avx512(const Turn& a, const Positions& at, int64_t begin,
                                        int64_t end, float* cosines) {
  turn_tokens<simd::F16>(a, at, begin, end, cosines);
}

}  // namespace

void run(Context& ctx, const Rope& a) {
  const Turn turn{.x = a.x.ptr<float>(),
                  .token_pitch = a.x.stride(0),
                  .head_pitch = a.x.stride(1),
                  .heads = a.x.dim(1),
                  .half = std::ssize(a.inv_freq),
                  .inv_freq = a.inv_freq.data(),
                  .sign = a.inverse ? -1.0 : 1.0};
  const Arena::Mark mark(ctx.scratch());
  float* tables = ctx.scratch().floats(thread_count() * 2 * turn.half);
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? turn_avx512 : turn_avx2;
  parallel_for(a.x.dim(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    body(turn, Positions(a, begin), begin, end, tables + thread_index() * 2 * turn.half);
  });
}

}  // namespace nestling::cpu
