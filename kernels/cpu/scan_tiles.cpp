#include "kernels/cpu/scan_tiles.h"

namespace nestling::cpu::scan {

template <>
void product<simd::F8>(const TileGemm& g) {
  tile_gemm<simd::F8>(g);
}
template <>
NESTLING_TARGET_AVX512 void product<simd::F16>(const TileGemm& g) {
  tile_gemm<simd::F16>(g);
}

namespace {

// Units a head: one, unless heads alone would leave threads waiting for the busiest one. A slice
// repeats its head's decays, so it is cut no thinner than a vector.
int64_t choose_slices(int64_t heads, int64_t channels, int64_t threads) {
  const auto load = [&](int64_t slices) {  // of the busiest thread, in heads
    const int64_t most_units = (heads * slices + threads - 1) / threads;
    return static_cast<double>(most_units) / static_cast<double>(slices);
  };
  int64_t best = 1;
  for (int64_t slices = 2; slices <= threads && channels / slices >= simd::kLanes; ++slices)
    if (load(slices) < 0.9 * load(best)) best = slices;
  return best;
}

}  // namespace

Plan make_plan(int64_t heads, int64_t channels, int64_t groups, int64_t threads) {
  Plan plan;
  plan.slices = choose_slices(heads, channels, threads);
  plan.most_units = 0;
  plan.buffers = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t h = g; h < heads; h += groups)
      for (int64_t s = 0; s < plan.slices; ++s) {
        const int64_t begin = channels * s / plan.slices;
        plan.units.push_back({h, begin, channels * (s + 1) / plan.slices - begin});
      }
  const auto units = static_cast<int64_t>(plan.units.size());
  const int64_t lanes = std::min(threads, units);
  const int64_t per_group = units / groups;
  for (int64_t l = 0; l < lanes; ++l) {
    plan.lanes.push_back(static_cast<int64_t>(plan.pieces.size()));
    const int64_t end = units * (l + 1) / lanes;
    for (int64_t at = units * l / lanes; at < end;) {
      // NOLINTNEXTLINE(clang-analyzer-core.*): heads is a multiple of groups, so per_group > 0
      const int64_t group = at / per_group;
      const int64_t stop = std::min(end, (group + 1) * per_group);
      plan.pieces.push_back({group, at, stop, stop - at < per_group ? plan.buffers++ : -1});
      plan.most_units = std::max(plan.most_units, stop - at);
      at = stop;
    }
  }
  plan.lanes.push_back(static_cast<int64_t>(plan.pieces.size()));
  return plan;
}

Extents make_extents(const Segments& segments, int64_t chunk, int64_t channels, int64_t state) {
  int64_t longest = 0;
  for (int64_t i = 0; i < segments.count(); ++i) longest = std::max(longest, segments.length(i));
  const int64_t tokens = std::min(chunk, longest);
  return {tokens, channels, state, padded(tokens), padded(channels), padded(state)};
}

}  // namespace nestling::cpu::scan
