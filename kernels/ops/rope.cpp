#include "kernels/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/ops/dispatch.h"

namespace nestling {

double rope_slowing(double frequency, const RopeScaling& scaling) {
  if (scaling.original_max_positions <= 0) return 1;
  // Turns within the original context: many keep their frequency, few are slowed by `factor`,
  // between the two limits both are blended.
  const double turns = scaling.original_max_positions * frequency / (2 * std::numbers::pi);
  const double blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  const double keep = std::clamp(blend, 0.0, 1.0);
  return keep + (1 - keep) / scaling.factor;
}

std::vector<float> rope_inverse_frequencies(int64_t rotary, double theta,
                                            const RopeScaling& scaling) {
  NESTLING_CHECK_INPUT(rotary >= 2 && rotary % 2 == 0, "rope: ", rotary,
                       " rotary channels, needs an even number");
  NESTLING_CHECK_INPUT(theta > 0, "rope: theta ", theta, ", needs a positive base");
  const bool scaled = scaling.original_max_positions > 0;
  NESTLING_CHECK_INPUT(!scaled || (scaling.factor > 0 && scaling.low_freq_factor > 0 &&
                                   scaling.high_freq_factor > scaling.low_freq_factor),
                       "rope: scaling by ", scaling.factor, " between the frequency factors ",
                       scaling.low_freq_factor, " and ", scaling.high_freq_factor,
                       ", needs 0 < low < high and a positive factor");
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rotary; i += 2) {
    const double f = std::pow(theta, -static_cast<double>(i) / static_cast<double>(rotary));
    frequencies.push_back(static_cast<float>(f * rope_slowing(f, scaling)));
  }
  return frequencies;
}

void rope(Context& ctx, const Rope& a) {
  constexpr const char* kOp = "rope";
  NESTLING_CHECK(a.x.rank() == 3, kOp, ": x is ", a.x.describe(), ", needs [T, heads, h]");
  NESTLING_CHECK(2 * std::ssize(a.inv_freq) <= a.x.dim(2), kOp, ": ", a.inv_freq.size(),
                 " frequencies, needs at most half the channels of x ", a.x.describe());
  NESTLING_CHECK(a.segments.tokens() == a.x.dim(0), kOp, ": segments cover ", a.segments.tokens(),
                 " tokens of x ", a.x.describe());
  NESTLING_CHECK(a.starts.empty() || std::ssize(a.starts) == a.segments.count(), kOp, ": ",
                 a.starts.size(), " starts of ", a.segments.count(), " segments");
  check_activations(ctx, kOp, {a.x});
  check_device(ctx, kOp, {a.x});
  const auto turned =
      static_cast<double>(a.x.dim(0) * a.x.dim(1)) * 2 * static_cast<double>(a.inv_freq.size());
  ctx.count(kOp, 3 * turned, 2 * dtype_bytes(a.x.dtype()) * turned);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
