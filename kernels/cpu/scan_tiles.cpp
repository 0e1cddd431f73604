#include "kernels/cpu/scan_tiles.h"

#include <immintrin.h>

namespace nestling::cpu::scan {

template <>
void product<simd::F8>(const TileGemm& g) {
  tile_gemm<simd::F8>(g);
}
template <>
NESTLING_TARGET_AVX512 void product<simd::F16>(const TileGemm& g) {
  tile_gemm<simd::F16>(g);
}

void save_and_scale(float* to, int64_t step, float* S, const Extents& e, int64_t count,
                    float scale) {
  using simd::F8;
  constexpr int64_t kN = simd::kLanesOf<F8>;
  const bool aligned = reinterpret_cast<uintptr_t>(to) % sizeof(F8) == 0 && step % kN == 0;
  for (int64_t p = 0; p < count; ++p) {
    float* row = S + p * e.state_pitch;
    float* out = to + p * step;
    int64_t n = 0;
    for (; aligned && n + kN <= e.state; n += kN) {
      const F8 v = simd::load<F8>(row + n);
      _mm256_stream_ps(out + n, v);
      simd::store(row + n, v * scale);
    }
    for (; n < e.state; ++n) {
      out[n] = row[n];
      row[n] *= scale;
    }
  }
  _mm_sfence();
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

void deal_units(Plan& plan, const ScanShape& s) {
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t h = g; h < s.heads; h += s.groups)
      for (int64_t i = 0; i < plan.slices; ++i) {
        const int64_t begin = s.channels * i / plan.slices;
        plan.units.push_back({h, begin, s.channels * (i + 1) / plan.slices - begin});
      }
}

// Bytes that a bundle keeps from chunk to chunk and from group to group.
int64_t bundle_bytes(const Extents& e, int64_t groups, int64_t units) {
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  const int64_t state = e.channels * e.state_pitch;
  return (2 * groups * tile + units * state) * static_cast<int64_t>(sizeof(float));
}

// Of a second level cache of 1 MiB and more; the rest is for what a unit works on.
constexpr int64_t kBundleBytes = 640 << 10;

void bundle_pieces(Plan& plan, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end;) {
    const Piece& first = plan.pieces[static_cast<size_t>(at)];
    const auto units_to = [&](int64_t stop) {
      return plan.pieces[static_cast<size_t>(stop - 1)].end - first.begin;
    };
    int64_t groups = 1;  // a power of two to 8: those are put together in registers
    while (groups < 8 && at + 2 * groups <= end &&
           bundle_bytes(plan.e, 2 * groups, units_to(at + 2 * groups)) <= kBundleBytes)
      groups *= 2;
    const Bundle b{at, at + groups, first.group, groups, first.begin, units_to(at + groups)};
    plan.bundles.push_back(b);
    plan.most_units = std::max(plan.most_units, b.units);
    plan.most_groups = std::max(plan.most_groups, b.groups);
    at = b.end;
  }
}

Extents make_extents(const Segments& segments, int64_t chunk, int64_t channels, int64_t state) {
  int64_t longest = 0;
  for (int64_t i = 0; i < segments.count(); ++i) longest = std::max(longest, segments.length(i));
  const int64_t tokens = std::min(chunk, longest);
  return {tokens, channels, state, padded(tokens), padded(channels), padded(state)};
}

}  // namespace

Plan make_plan(const Segments& segments, int64_t chunk, const ScanShape& s, int64_t threads) {
  Plan plan{};
  plan.slices = choose_slices(s.heads, s.channels, threads);
  const int64_t widest = (s.channels + plan.slices - 1) / plan.slices;
  plan.e = make_extents(segments, chunk, widest, s.state);
  deal_units(plan, s);
  const auto units = static_cast<int64_t>(plan.units.size());
  const int64_t lanes = std::min(threads, units);
  const int64_t per_group = units / s.groups;
  for (int64_t l = 0; l < lanes; ++l) {
    plan.lanes.push_back(static_cast<int64_t>(plan.bundles.size()));
    const auto first = static_cast<int64_t>(plan.pieces.size());
    const int64_t end = units * (l + 1) / lanes;
    for (int64_t at = units * l / lanes; at < end;) {
      // NOLINTNEXTLINE(clang-analyzer-core.*): heads is a multiple of groups, so per_group > 0
      const int64_t group = at / per_group;
      const int64_t stop = std::min(end, (group + 1) * per_group);
      plan.pieces.push_back({group, at, stop, stop - at < per_group ? plan.buffers++ : -1});
      at = stop;
    }
    bundle_pieces(plan, first, static_cast<int64_t>(plan.pieces.size()));
  }
  plan.lanes.push_back(static_cast<int64_t>(plan.bundles.size()));
  return plan;
}

}  // namespace nestling::cpu::scan
