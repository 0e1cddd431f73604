// scan_walk.cuh - what the kernels of scan_walk.h share: tiles on their way to shared memory, and what the
// decays of a tile give.
#pragma once
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_walk.h"
#include "kernels/cuda/warp_mma.cuh"

namespace nestling::cuda::scan {

using bf16_t = __nv_bfloat16;
// Elements from row to row of tiles of 64 and of 128 columns: each row begins at other banks.
inline constexpr int kNarrow = kPitch<bf16_t>;
inline constexpr int kWide = kStates + 8;

// What a walk carries of a tile.
struct Rows {
  int64_t begin;
  int count;
};
inline __device__ Rows rows_of(const Chunk& tile) {
  return {tile.begin, static_cast<int>(tile.length)};
}

// copy_padded of rows that do not start at multiples of 16 bytes, element by element. Out of line: few views need it, and
// loops are to fit the cache that instructions have.
template <int kColumns, int kBlock>
__device__ __attribute__((noinline)) void copy_elements(bf16_t* tile, const bf16_t* from,
                                                        int64_t pitch, int rows, int64_t cols) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kColumns; i += kBlock) {
    const int r = i / kColumns, c = i % kColumns;
    store(tile + r * (kColumns + 8) + c, r < rows && c < cols ? load(from + r * pitch + c) : 0.0f);
  }
}

// Starts the copies of [64, kColumns] by kBlock threads, into rows of kColumns + 8; zero outside rows x cols.
template <int kColumns, int kBlock>
__device__ void copy_padded(bf16_t* tile, const bf16_t* from, int64_t pitch, int rows, int64_t cols,
                            bool vector) {
  if (!vector) return copy_elements<kColumns, kBlock>(tile, from, pitch, rows, cols);
  constexpr int kPieces = kColumns / 8;  // of 16 bytes
  constexpr int kTilePitch = kColumns + 8;
  constexpr int kRowsAtOnce = kBlock / kPieces;
  const int c = static_cast<int>(threadIdx.x) % kPieces * 8;
  const int first = static_cast<int>(threadIdx.x) / kPieces;
  const auto there = static_cast<int>(min(max(cols - c, int64_t{0}), int64_t{8}));
  bf16_t* to = tile + first * kTilePitch + c;
  const bf16_t* at = from + first * pitch + c;
#pragma unroll 4
  for (int r = first; r < kTile; r += kRowsAtOnce) {
    const int here = r < rows ? there : 0;
    copy_async(to, here > 0 ? at : from, 2 * here);
    to += kRowsAtOnce * kTilePitch;
    at += kRowsAtOnce * pitch;
  }
}
// Of a head's x or dy, and of its group's B or C.
template <int kBlock>
__device__ void copy_heads(bf16_t* tile, const TokenHeads<const bf16_t>& v, const Rows& at,
                           int64_t head, const Sizes& s) {
  copy_padded<kTile, kBlock>(tile, v.data + at.begin * v.token + head * v.head, v.token, at.count,
                             s.channels, v.vector);
}
template <int kBlock>
__device__ void copy_group(bf16_t* tile, const bf16_t* u, const Rows& at, int64_t group,
                           const Sizes& s) {
  copy_padded<kStates, kBlock>(tile, u + (group * s.tokens + at.begin) * s.padded_states,
                               s.padded_states, at.count, s.padded_states, true);
}

// A token's decays as they lie in memory; all that a tile needs comes from them.
struct Token {
  float2 sum, whole;  // up to the token, and of its tile
  float dt;
};
inline __device__ Token load_token(const Decays& d, const Rows& at, int64_t scalars, int i) {
  Token t{{0.0f, 0.0f}, d.sum[scalars + at.begin + at.count - 1], 0.0f};
  if (i < at.count) {
    t.sum = d.sum[scalars + at.begin + i];
    t.dt = d.dt[scalars + at.begin + i];
  }
  return t;
}
inline __device__ float head_of(const Token& t) {
  return decay(t.sum, {0.0f, 0.0f});
}
inline __device__ float tail_of(const Token& t) {
  return decay(t.whole, t.sum);
}
inline __device__ float kept_of(const Token& t) {
  return decay(t.whole, {0.0f, 0.0f});
}

// a = v^T [16 channels, 16 tokens], each token times its weight, rounded once.
inline __device__ void scale_tokens(uint32_t (&a)[4], const float* weights) {
  const int q = own_lane() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = unpack_pair(a[i]);
    const float* w = weights + q + i / 2 * 8;
    a[i] = bits_of(v.x * w[0], v.y * w[1]);
  }
}

// s [16 channels, 8 kTiles states] += (weighted v)^T u of a tile. `v` and `u` begin at the warp's columns.
template <int kTiles>
__device__ void add_tokens(float (&s)[kTiles][4], const bf16_t* v, const bf16_t* u, int u_pitch,
                           const float* weights) {
#pragma unroll
  for (int j = 0; j < kTile; j += 16) {
    uint32_t a[4];
    load_cols_t(a, v + j * kNarrow, kNarrow);
    scale_tokens(a, weights + j);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_rows_t(b, u + j * u_pitch + 8 * n, u_pitch);
      add_product(s[n], a, b[0], b[1]);
      add_product(s[n + 1], a, b[2], b[3]);
    }
  }
}

template <int kTiles>
__device__ void scale_all(float (&s)[kTiles][4], float factor) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] *= factor;
}
template <int kTiles>
__device__ void clear(float (&s)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0.0f;
}

// fn(row, column, two neighbours) for the sums of [16, 8 kTiles] of the calling lane.
template <int kTiles, class Fn>
__device__ void each_pair_of(float (&s)[kTiles][4], Fn fn) {
  const int g = own_lane() / 4;
  const int q = own_lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) fn(g + 8 * h, 8 * n + q, s[n][2 * h], s[n][2 * h + 1]);
}

// The warp's [16, 8 kTiles] of a head's state in memory: its first element, and what there is from there on.
template <class F>
struct StateRows {
  F* data;
  int64_t pitch;
  int channels, states;
  bool vector;  // two neighbours at once
};
// fn(pointer, how many of two neighbours exist, one value, the other).
template <int kTiles, class F, class Fn>
__device__ void each_of_state(float (&s)[kTiles][4], const StateRows<F>& v, Fn fn) {
  const int g = own_lane() / 4;
  const int q = own_lane() % 4 * 2;
  F* const low = v.data + g * v.pitch + q;
  F* const high = low + 8 * v.pitch;
  const int left_low = g < v.channels ? v.states - q : 0;
  const int left_high = g + 8 < v.channels ? v.states - q : 0;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    fn(low + 8 * n, left_low - 8 * n, s[n][0], s[n][1]);
    fn(high + 8 * n, left_high - 8 * n, s[n][2], s[n][3]);
  }
}
template <int kTiles>
__device__ void load_state(float (&s)[kTiles][4], const StateRows<const float>& v) {
  if (v.vector) {
    each_of_state(s, v, [](const float* at, int left, float& a, float& b) {
      float2 x{0.0f, 0.0f};
      if (left >= 2) x = *reinterpret_cast<const float2*>(at);
      if (left == 1) x.x = at[0];
      a = x.x;
      b = x.y;
    });
  } else {
    each_of_state(s, v, [](const float* at, int left, float& a, float& b) {
      a = left >= 1 ? at[0] : 0.0f;
      b = left >= 2 ? at[1] : 0.0f;
    });
  }
}
template <int kTiles>
__device__ void store_state(float (&s)[kTiles][4], const StateRows<float>& v) {
  if (v.vector) {
    each_of_state(s, v, [](float* at, int left, float a, float b) {
      if (left >= 2) *reinterpret_cast<float2*>(at) = make_float2(a, b);
      if (left == 1) at[0] = a;
    });
  } else {
    each_of_state(s, v, [](float* at, int left, float a, float b) {
      if (left >= 1) at[0] = a;
      if (left >= 2) at[1] = b;
    });
  }
}
// Of a view, from channel `p` and state `n` on.
template <class F>
__device__ StateRows<F> state_rows(const StateView& v, int64_t slot, int64_t head, int p, int n,
                                   const Sizes& s) {
  return {v.data + slot * v.slot + head * v.head + p * v.channel + n, v.channel,
          static_cast<int>(s.channels) - p, static_cast<int>(s.states) - n, v.vector};
}

inline __device__ void put_pair(bf16_t* to, float a, float b) {
  *reinterpret_cast<uint32_t*>(to) = bits_of(a, b);
}
inline __device__ float2 get_pair(const bf16_t* from) {
  return unpack_pair(*reinterpret_cast<const uint32_t*>(from));
}

}  // namespace nestling::cuda::scan
