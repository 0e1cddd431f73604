// rope.cu - rotary embedding. A block takes neighbouring tokens: their positions, then their cosines and sines once
// into shared memory, in f64, then every head; a few lanes a head, each several heads at a time.
#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/rope.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // heads in flight a thread

// What the host says of positions and angles, in device memory.
struct Tables {
  const int32_t* offsets;  // [segments + 1]
  const int32_t* starts;   // [segments]; null: 0
  const float* inv_freq;
};

// In one upload: a decode step has two of these operators a layer.
Tables upload_tables(Context& ctx, const Rope& a) {
  std::vector<std::byte> bytes;
  const auto add = [&](auto values) {
    const auto added = std::as_bytes(values);
    bytes.insert(bytes.end(), added.begin(), added.end());
    return bytes.size() - added.size();
  };
  const size_t offsets = add(a.segments.offsets());
  const size_t starts = add(a.starts);
  const size_t inv_freq = add(a.inv_freq);
  const std::byte* all = upload(ctx, bytes);
  return {
      .offsets = reinterpret_cast<const int32_t*>(all + offsets),
      .starts = a.starts.empty() ? nullptr : reinterpret_cast<const int32_t*>(all + starts),
      .inv_freq = reinterpret_cast<const float*>(all + inv_freq),
  };
}

template <class X>
struct Turn {
  X* x;
  int64_t token_pitch, head_pitch, tokens;
  Tables tables;
  int64_t segments;
  double sign;  // of the angle
  int heads, half, tokens_a_block;
  int lane_bits;  // a head has 1 << lane_bits lanes
};

// The heads that a thread takes at a time: their first elements, and where their angles begin.
template <class X>
struct Heads {
  X* x[kAtOnce];
  int table[kAtOnce];
  int count;
};

// Pairs c, ..., c + kN - 1 of the heads. kWhole: there are kAtOnce, and the loads are free of branches.
template <int kN, bool kWhole, class X>
__device__ void turn_pairs(const Heads<X>& heads, int c, int half, const float* cosines,
                           const float* sines) {
  const auto some = [&](int u) { return kWhole || u < heads.count ? kN : 0; };
  Pack<kN> low[kAtOnce], high[kAtOnce];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    low[u] = load_pack<kN>(heads.x[u] + c, some(u));
    high[u] = load_pack<kN>(heads.x[u] + half + c, some(u));
  }
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    const Pack<kN> cosine = load_pack<kN>(cosines + heads.table[u] + c);
    const Pack<kN> sine = load_pack<kN>(sines + heads.table[u] + c);
    Pack<kN> to_low, to_high;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      // Which product is fused is written out, so that no copy of this loop rounds otherwise.
      to_low.v[i] = fmaf(low[u].v[i], cosine.v[i], -(high[u].v[i] * sine.v[i]));
      to_high.v[i] = fmaf(high[u].v[i], cosine.v[i], low[u].v[i] * sine.v[i]);
    }
    store_pack(heads.x[u] + c, to_low, some(u));
    store_pack(heads.x[u] + half + c, to_high, some(u));
  }
}

// By halves among the segments that the token can be of: each has a token, which bounds how many are before it and
// behind it. With one segment, or as many as tokens, nothing is left to look for.
template <class X>
__device__ int64_t position_of(const Turn<X>& a, int64_t token) {
  int64_t low = max(int64_t{0}, a.segments - a.tokens + token);
  int64_t high = min(token, a.segments - 1);
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (a.tables.offsets[middle] <= token)
      low = middle;
    else
      high = middle - 1;
  }
  const int64_t start = a.tables.starts != nullptr ? a.tables.starts[low] : 0;
  return start + token - a.tables.offsets[low];
}

template <int kN, class X>
__global__ void __launch_bounds__(kThreads) rope_kernel(Turn<X> a) {
  __shared__ double positions[kThreads];
  float* cosines = dynamic_shared<float>();
  float* sines = cosines + a.tokens_a_block * a.half;
  const int64_t first = int64_t{blockIdx.x} * a.tokens_a_block;
  const int tokens = static_cast<int>(min(int64_t{a.tokens_a_block}, a.tokens - first));
  for (int t = threadIdx.x; t < tokens; t += kThreads)
    positions[t] = a.sign * static_cast<double>(position_of(a, first + t));
  __syncthreads();
  for (int i = threadIdx.x; i < tokens * a.half; i += kThreads) {
    const double angle = positions[i / a.half] * static_cast<double>(a.tables.inv_freq[i % a.half]);
    cosines[i] = static_cast<float>(cos(angle));
    sines[i] = static_cast<float>(sin(angle));
  }
  __syncthreads();
  const int lanes = 1 << a.lane_bits;
  const int step = kThreads >> a.lane_bits;
  const int rows = tokens * a.heads;  // row r: head r % heads of token r / heads
  for (int r = static_cast<int>(threadIdx.x) >> a.lane_bits; r < rows; r += kAtOnce * step) {
    Heads<X> heads;
    heads.count = (rows - r + step - 1) / step;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int row = min(r + u * step, rows - 1);
      const int t = row / a.heads;
      heads.x[u] = a.x + (first + t) * a.token_pitch + (row - t * a.heads) * a.head_pitch;
      heads.table[u] = t * a.half;
    }
    for (int c = static_cast<int>(threadIdx.x) % lanes * kN; c < a.half; c += lanes * kN) {
      if (heads.count >= kAtOnce)
        turn_pairs<kN, true>(heads, c, a.half, cosines, sines);
      else
        turn_pairs<kN, false>(heads, c, a.half, cosines, sines);
    }
  }
}

template <class X>
void rotate(Context& ctx, const Rope& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t half = std::ssize(a.inv_freq);
  Turn<X> turn{.x = elements<X>(a.x),
               .token_pitch = a.x.stride(0),
               .head_pitch = a.x.stride(1),
               .tokens = a.x.dim(0),
               .tables = upload_tables(ctx, a),
               .segments = a.segments.count(),
               .sign = a.inverse ? -1.0 : 1.0,
               .heads = static_cast<int>(a.x.dim(1)),
               .half = static_cast<int>(half),
               .tokens_a_block = static_cast<int>(std::max<int64_t>(1, kThreads / half)),
               .lane_bits = 0};
  const bool packs =
      half % 4 == 0 && packable(turn.x, turn.token_pitch) && packable(turn.x, turn.head_pitch);
  const auto lanes = static_cast<uint64_t>(std::min<int64_t>(packs ? half / 4 : half, kWarp));
  turn.lane_bits = std::bit_width(std::bit_ceil(lanes)) - 1;
  const int64_t blocks = (turn.tokens + turn.tokens_a_block - 1) / turn.tokens_a_block;
  const Grid grid{static_cast<unsigned>(blocks), kThreads,
                  2 * int64_t{turn.tokens_a_block} * half * int64_t{sizeof(float)}};
  launch(ctx, grid, packs ? rope_kernel<4, X> : rope_kernel<1, X>, turn);
}

}  // namespace

void run(Context& ctx, const Rope& a) {
  if (a.x.size() == 0 || a.inv_freq.empty()) return;
  with_elements(a.x, [&]<class X>(X) { rotate<X>(ctx, a); });
}

}  // namespace nestling::cuda
