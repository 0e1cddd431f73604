// scan_groups.cu - what the heads of a group share: B and C laid out by group, and C B^T.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_passes.h"

namespace nestling::cuda::scan {

namespace {

constexpr int64_t kMostBlocks = 1 << 20;

struct Layout {
  int64_t token, state;  // strides of the [T, N, G] view
  Sizes s;
};

// A thread a token and state, one after the other the G adjacent elements: they come from the line
// that the first has brought.
template <class E>
__global__ void __launch_bounds__(kThreads) to_groups_kernel(E* to, const E* from, Layout l) {
  for (int64_t t = blockIdx.x; t < l.s.tokens; t += gridDim.x)
    for (int64_t n = threadIdx.x; n < l.s.padded_states; n += kThreads)
      for (int64_t g = 0; g < l.s.groups; ++g)
        store(to + (g * l.s.tokens + t) * l.s.padded_states + n,
              n < l.s.states ? load(from + t * l.token + n * l.state + g) : 0.0f);
}

template <class E, class F>
__global__ void __launch_bounds__(kThreads) from_groups_kernel(E* to, const F* from, Layout l) {
  for (int64_t t = blockIdx.x; t < l.s.tokens; t += gridDim.x)
    for (int64_t n = threadIdx.x; n < l.s.states; n += kThreads)
      for (int64_t g = 0; g < l.s.groups; ++g)
        store(to + t * l.token + n * l.state + g,
              load(from + (g * l.s.tokens + t) * l.s.padded_states + n));
}

// The same of bf16 and 8 groups at a time: a thread moves two states, 16 bytes of the view each.
constexpr int kEight = 8;
using Eight = AlignedVector<__nv_bfloat16, kEight>;
using Two = AlignedVector<__nv_bfloat16, 2>;

bool by_eights(const Layout& l, const __nv_bfloat16* data) {
  return l.s.groups % kEight == 0 && pitches_aligned(data, {l.token, l.state}, sizeof(Eight));
}

__global__ void __launch_bounds__(kThreads)
    to_groups_by_eights(__nv_bfloat16* to, const __nv_bfloat16* from, Layout l) {
  const int64_t pairs = l.s.padded_states / 2;
  for (int64_t i = first_item(); i < l.s.tokens * pairs; i += item_step()) {
    const int64_t t = i / pairs;
    const int64_t n = i % pairs * 2;
    const __nv_bfloat16* row = from + t * l.token + n * l.state;
    for (int64_t g = 0; g < l.s.groups; g += kEight) {
      Eight in[2] = {};
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (n + e < l.s.states) in[e] = *reinterpret_cast<const Eight*>(row + e * l.state + g);
#pragma unroll
      for (int j = 0; j < kEight; ++j)
        *reinterpret_cast<Two*>(to + ((g + j) * l.s.tokens + t) * l.s.padded_states + n) =
            Two{{in[0].v[j], in[1].v[j]}};
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    from_groups_by_eights(__nv_bfloat16* to, const __nv_bfloat16* from, Layout l) {
  const int64_t pairs = l.s.padded_states / 2;
  for (int64_t i = first_item(); i < l.s.tokens * pairs; i += item_step()) {
    const int64_t t = i / pairs;
    const int64_t n = i % pairs * 2;
    __nv_bfloat16* row = to + t * l.token + n * l.state;
    for (int64_t g = 0; g < l.s.groups; g += kEight) {
      Eight out[2];
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        const auto in = *reinterpret_cast<const Two*>(
            from + ((g + j) * l.s.tokens + t) * l.s.padded_states + n);
        out[0].v[j] = in.v[0];
        out[1].v[j] = in.v[1];
      }
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (n + e < l.s.states) *reinterpret_cast<Eight*>(row + e * l.state + g) = out[e];
    }
  }
}

// Block (pair, group).
template <class E>
__global__ void __launch_bounds__(kThreads)
    pair_products_kernel(float* out, const E* C, const E* B, const Pair* pairs, const Tile* tiles,
                         Sizes s) {
  __shared__ Shared<E> shared;
  const Pair pair = pairs[blockIdx.x];
  const Tile row = tiles[pair.row];
  const Tile col = tiles[pair.col];
  const int64_t group = blockIdx.y;
  TileSum<E> sum;
  sum.clear();
  for (int64_t n0 = 0; n0 < s.padded_states; n0 += kTile) {
    __syncthreads();
    stage(shared.a, C + (group * s.tokens + row.begin) * s.padded_states + n0, s.padded_states,
          row.tokens, kTile, true);
    stage(shared.b, B + (group * s.tokens + col.begin) * s.padded_states + n0, s.padded_states,
          col.tokens, kTile, true);
    __syncthreads();
    sum.template add<false, true>(shared.a, shared.b);
  }
  sum.write(out + (blockIdx.x * s.groups + group) * kTile * kTile, kTile);
}

Grid token_grid(const Plan& p) {
  return {dim3(static_cast<unsigned>(std::min(p.s.tokens, kMostBlocks))), kThreads};
}

Grid pair_grid(const Plan& p) {
  return {blocks_for(p.s.tokens * p.s.padded_states / 2, kThreads, kMostBlocks), kThreads};
}

}  // namespace

template <class E>
const E* to_groups(Context& ctx, const Plan& p, ConstView v) {
  constexpr DType kType = std::is_same_v<E, float> ? DType::kF32 : DType::kBF16;
  E* rows = elements<E>(ctx.scratch().alloc(kType, {p.s.groups, p.s.tokens, p.s.padded_states}));
  const Layout l{v.stride(0), v.stride(1), p.s};
  if constexpr (std::is_same_v<E, __nv_bfloat16>) {
    if (by_eights(l, elements<E>(v))) {
      launch(ctx, pair_grid(p), to_groups_by_eights, rows, elements<E>(v), l);
      return rows;
    }
  }
  launch(ctx, token_grid(p), to_groups_kernel<E>, rows, elements<E>(v), l);
  return rows;
}
template const float* to_groups(Context&, const Plan&, ConstView);
template const __nv_bfloat16* to_groups(Context&, const Plan&, ConstView);

template <class E, class F>
void from_groups(Context& ctx, const Plan& p, View v, const F* rows) {
  const Layout l{v.stride(0), v.stride(1), p.s};
  if constexpr (std::is_same_v<F, __nv_bfloat16>) {
    if (by_eights(l, elements<E>(v)))
      return launch(ctx, pair_grid(p), from_groups_by_eights, elements<E>(v), rows, l);
  }
  launch(ctx, token_grid(p), from_groups_kernel<E, F>, elements<E>(v), rows, l);
}
template void from_groups<float>(Context&, const Plan&, View, const float*);
template void from_groups<__nv_bfloat16>(Context&, const Plan&, View, const float*);
template void from_groups<__nv_bfloat16>(Context&, const Plan&, View, const __nv_bfloat16*);

template <class E>
const float* pair_products(Context& ctx, const Plan& p, const E* C, const E* B) {
  float* out = ctx.scratch().floats(p.pair_count * p.s.groups * kTile * kTile);
  const dim3 grid(static_cast<unsigned>(p.pair_count), static_cast<unsigned>(p.s.groups));
  launch(ctx, {grid, kThreads}, pair_products_kernel<E>, out, C, B, p.pairs, p.tiles, p.s);
  return out;
}
template const float* pair_products(Context&, const Plan&, const float*, const float*);
template const float* pair_products(Context&, const Plan&, const __nv_bfloat16*,
                                    const __nv_bfloat16*);

}  // namespace nestling::cuda::scan
