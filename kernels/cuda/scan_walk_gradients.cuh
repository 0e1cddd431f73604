// scan_walk_gradients.cuh - a block of scan_walk_gradients.cu: what it holds, and the first half of a head's
// work: the state before the tile, and what its pairs of tokens give.
#pragma once
#include "kernels/cuda/scan_walk.cuh"

namespace nestling::cuda::scan {

inline constexpr int kGradientThreads = 256;
inline constexpr int kGradientWarps = kGradientThreads / kWarp;
inline constexpr int kHalf = kTile / 2;

struct GradientPass {
  TileGradients g;
  const Chunk* tiles;
  const Saved* saved;
  Decays decays;
  Sizes s;
};

// Of a head: of the tile, and of the first one of its chunk.
struct HeadScalars {
  float2 sum[kTile];
  float dt[kTile], head[kTile], tail[kTile];
  float weight[kTile];
  float kept, first_kept;
};

struct GradientShared {
  bf16_t B[kTile * kWide], C[kTile * kWide];
  bf16_t x[2][kTile * kNarrow], dy[2][kTile * kNarrow];
  bf16_t dS[2][kTile * kWide];
  bf16_t S[kTile * kWide];
  bf16_t M[kTile * kNarrow];        // then dx; at the end dG
  bf16_t earlier_B[kTile * kWide];  // of a tile before, in the chunk
  bf16_t earlier_x[kTile * kNarrow];
  HeadScalars heads[2];
  float rows[2][kTile];                   // of K: of each half of the columns
  float cols[kGradientWarps / 2][kTile];  // and of each 16 rows
  float diagonal[kTile];
  float parts[2][kGradientWarps];  // of <S, dS>, and of dD
};
static_assert(sizeof(GradientShared) <= kWalkBytes);

struct Worker {
  const GradientPass& k;
  GradientShared& shared;
  int tile, group;
  Rows at;
  int place;      // of the tile in its chunk
  int row, half;  // the warp's first row, and half of the columns

  __device__ Rows first() const {  // tile of the chunk
    return rows_of(k.tiles[static_cast<unsigned>(tile - place)]);
  }
  __device__ bool has_states() const { return kTile * half < k.s.padded_states; }  // of the half
  __device__ bool has_pairs() const { return kHalf * half <= row; }  // at or below the diagonal
  __device__ void copy(int head, int stage) const {
    copy_heads<kGradientThreads>(shared.x[stage], k.g.x, at, head, k.s);
    copy_heads<kGradientThreads>(shared.dy[stage], k.g.dy, at, head, k.s);
    copy_padded<kStates, kGradientThreads>(
        shared.dS[stage], k.g.dstates_after + (tile * k.s.heads + head) * kStateSize, kStates,
        kTile, k.s.padded_states, true);
  }
  // Half of the threads have the tile's tokens, half those of the first tile of the chunk.
  __device__ Token token(int head) const {
    return load_token(
        k.decays,
        rows_of(k.tiles[static_cast<unsigned>(threadIdx.x < kTile ? tile : tile - place)]),
        head * k.s.tokens, static_cast<int>(threadIdx.x) % kTile);
  }
  __device__ void put(HeadScalars& to, const Token& t) const {
    const int i = static_cast<int>(threadIdx.x) % kTile;
    if (threadIdx.x < kTile) {
      to.sum[i] = t.sum;
      to.dt[i] = t.dt;
      to.head[i] = head_of(t);
      to.tail[i] = tail_of(t);
      if (i == 0) to.kept = kept_of(t);
    } else if (threadIdx.x < 2 * kTile) {
      to.weight[i] = t.dt * tail_of(t);
      if (i == 0) to.first_kept = kept_of(t);
    }
  }
  __device__ void load_saved(float (&state)[8][4], int head) const {
    load_state(state,
               state_rows<const float>(k.g.states, k.saved[static_cast<unsigned>(tile)].chunk, head,
                                       row, kTile * half, k.s));
  }
};

// The state before the chunk becomes that before the tile. The first earlier tile has been copied.
inline __device__ void advance(float (&state)[8][4], const Worker& w, int head,
                               HeadScalars& scalars) {
  for (int place = 0; place < w.place; ++place) {
    if (place > 0) {
      __syncthreads();  // the one before has been read
      const Rows at = rows_of(w.k.tiles[w.tile - w.place + place]);
      copy_group<kGradientThreads>(w.shared.earlier_B, w.k.g.B, at, w.group, w.k.s);
      copy_heads<kGradientThreads>(w.shared.earlier_x, w.k.g.x, at, head, w.k.s);
      close_copies();
      const Token t =
          load_token(w.k.decays, at, head * w.k.s.tokens, static_cast<int>(threadIdx.x) % kTile);
      if (threadIdx.x < kTile) scalars.weight[threadIdx.x] = t.dt * tail_of(t);
      if (threadIdx.x == 0) scalars.first_kept = kept_of(t);
      wait_for_copies<0>();
      __syncthreads();
    }
    scale_all(state, scalars.first_kept);
    add_tokens(state, w.shared.earlier_x + w.row, w.shared.earlier_B + kTile * w.half, kWide,
               scalars.weight);
  }
  if (w.place > 1) {  // the next head begins with the first again
    __syncthreads();
    copy_group<kGradientThreads>(w.shared.earlier_B, w.k.g.B, w.first(), w.group, w.k.s);
  }
}

// S to shared memory, and the warp's part of <S, dS>.
inline __device__ void put_state(float (&state)[8][4], const Worker& w, const bf16_t* dS) {
  float dot = 0.0f;
  const int first = w.row * kWide + kTile * w.half;
  each_pair_of(state, [&](int r, int c, float a, float b) {
    const int at = first + r * kWide + c;
    const float2 other = get_pair(dS + at);
    dot += a * other.x + b * other.y;
    put_pair(w.shared.S + at, a, b);
  });
  dot = warp_sum(dot);
  if (own_lane() == 0) w.shared.parts[0][threadIdx.x / kWarp] = dot;
}

// dM = dy_i . x_j of the warp's rows and half of the columns.
inline __device__ void multiply_tokens(float (&dM)[4][4], const Worker& w, int stage) {
  clear(dM);
  if (!w.has_pairs()) return;
#pragma unroll
  for (int p = 0; p < kTile; p += 16) {
    uint32_t a[4];
    load_rows(a, w.shared.dy[stage] + w.row * kNarrow + p, kNarrow);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      uint32_t b[4];
      load_cols(b, w.shared.x[stage] + (kHalf * w.half + 16 * j) * kNarrow + p, kNarrow);
      add_product(dM[2 * j], a, b[0], b[1]);
      add_product(dM[2 * j + 1], a, b[2], b[3]);
    }
  }
}

struct PairSums {
  float row[2];
  float col[4][2];
};
// One pair (i, j): its share of dG and of the sums of K; returns M_ij.
inline __device__ float one_pair(GradientShared& shared, const HeadScalars& scalars, int i, int j,
                                 float dM, float product, float& dG, float& row, float& col) {
  if (j > i) return 0.0f;
  const float L = decay(scalars.sum[i], scalars.sum[j]);
  const float kept = dM * L * product;
  const float dt = scalars.dt[j];
  dG += dM * L * dt;
  if (i == j) {
    shared.diagonal[i] = kept;
  } else {
    row += kept * dt;
    col += kept;
  }
  return L * product;
}

// Of the warp's pairs: M to shared memory, dG, and the sums of K.
inline __device__ void pair_terms(float (&dM)[4][4], const float (&products)[4][4],
                                  float (&dG)[4][4], const Worker& w, const HeadScalars& scalars) {
  const int g = own_lane() / 4;
  const int q = own_lane() % 4 * 2;
  PairSums sums{};
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = w.row + g + 8 * h;
      const int j = kHalf * w.half + 8 * n + q;
      float m[2];
#pragma unroll
      for (int e = 0; e < 2; ++e)
        m[e] = one_pair(w.shared, scalars, i, j + e, dM[n][2 * h + e], products[n][2 * h + e],
                        dG[n][2 * h + e], sums.row[h], sums.col[n][e]);
      put_pair(w.shared.M + i * kNarrow + j, m[0], m[1]);
    }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float row = warp_sum<4>(sums.row[h]);
    if (q == 0) w.shared.rows[w.half][w.row + g + 8 * h] = row;
  }
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float col = sums.col[n][e];
#pragma unroll
      for (int step = 4; step < kWarp; step *= 2) col += __shfl_xor_sync(0xffffffffu, col, step);
      if (g == 0) w.shared.cols[w.row / 16][kHalf * w.half + 8 * n + q + e] = col;
    }
}

}  // namespace nestling::cuda::scan
