// scan_walk_gradients.cu - dx, dB, dC and all that ddt is made of: a block a tile of tokens and group, which
// takes the group's heads one after the other; each operand is read once.
//
// Of a head     S before the tile, carried there from the state before its chunk; dM = dy x^T, from it the
//               head's share of dG and the sums of K (see scan_gradients.h); then
//               dC_i += head_i dy_i S    dB_j += dt_j tail_j x_j dS    dx_j = dt_j (tail_j dS B_j + M^T dy) + D dy
// At the end    dC += dG B, dB += dG^T C.
// Warps         eight: 16 rows each of four, and one half of the columns. Sums of dC and dB [16, 64] and of dG
//               [16, 32] stay in registers. The next head is on its way while one is worked on.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_walk_gradients.cuh"

namespace nestling::cuda::scan {

namespace {

// sums_i += weight_i scale_i (v_i state), and the dots of scale_i (v_i state) with the rows of `own`.
__device__ __forceinline__ void add_state_term(float (&sums)[8][4], const Worker& w,
                                               const bf16_t* v, const bf16_t* state,
                                               const bf16_t* own, const float* scale,
                                               const float* weight, float* dots) {
  float term[8][4];
  clear(term);
#pragma unroll 2
  for (int p = 0; p < kTile; p += 16) {
    uint32_t a[4];
    load_rows(a, v + w.row * kNarrow + p, kNarrow);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];
      load_rows_t(b, state + p * kWide + kTile * w.half + 16 * n, kWide);
      add_product(term[2 * n], a, b[0], b[1]);
      add_product(term[2 * n + 1], a, b[2], b[3]);
    }
  }
  const int g = own_lane() / 4;
  const int q = own_lane() % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int i = w.row + g + 8 * h;
    const bf16_t* other = own + i * kWide + kTile * w.half + q;
    const float factor = scale[i];
    const float share = weight == nullptr ? factor : factor * weight[i];
    float dot = 0.0f;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 o = get_pair(other + 8 * n);
      dot += term[n][2 * h] * o.x + term[n][2 * h + 1] * o.y;
      sums[n][2 * h] += share * term[n][2 * h];
      sums[n][2 * h + 1] += share * term[n][2 * h + 1];
    }
    dot = warp_sum<4>(dot) * factor;
    if (q == 0 && i < w.at.count && w.has_states()) dots[i] = dot;
  }
}

// dx of the warp's rows and half of the channels, without D dy.
__device__ void gradient_of_x(float (&dx)[4][4], const Worker& w, const HeadScalars& scalars,
                              int stage) {
  clear(dx);
  const GradientShared& shared = w.shared;
#pragma unroll 4
  for (int n = 0; n < kStates; n += 16) {
    uint32_t a[4];
    load_rows(a, shared.B + w.row * kWide + n, kWide);
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      uint32_t b[4];
      load_cols(b, shared.dS[stage] + (kHalf * w.half + 16 * p) * kWide + n, kWide);
      add_product(dx[2 * p], a, b[0], b[1]);
      add_product(dx[2 * p + 1], a, b[2], b[3]);
    }
  }
  const int g = own_lane() / 4;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dx[n][e] *= scalars.tail[w.row + g + e / 2 * 8];
#pragma unroll 1
  for (int i = w.row; i < kTile; i += 16) {
    uint32_t a[4];
    load_cols_t(a, shared.M + i * kNarrow + w.row, kNarrow);
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      uint32_t b[4];
      load_rows_t(b, shared.dy[stage] + i * kNarrow + kHalf * w.half + 16 * p, kNarrow);
      add_product(dx[2 * p], a, b[0], b[1]);
      add_product(dx[2 * p + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) dx[n][e] *= scalars.dt[w.row + g + e / 2 * 8];
}

// dx to the place of M, which all have read; and the warp's part of dD.
__device__ void put_dx(float (&dx)[4][4], const Worker& w, int head, int stage) {
  const float skip = w.k.g.D[head];
  float dot = 0.0f;
  const int first = w.row * kNarrow + kHalf * w.half;
  each_pair_of(dx, [&](int r, int c, float a, float b) {
    const int at = first + r * kNarrow + c;
    const float2 dy = get_pair(w.shared.dy[stage] + at);
    const float2 x = get_pair(w.shared.x[stage] + at);
    dot += dy.x * x.x + dy.y * x.y;
    put_pair(w.shared.M + at, a + skip * dy.x, b + skip * dy.y);
  });
  dot = warp_sum(dot);
  if (own_lane() == 0) w.shared.parts[1][threadIdx.x / kWarp] = dot;
}

__device__ void write_dx(const Worker& w, int head) {
  const TokenHeads<bf16_t>& out = w.k.g.dx;
  const auto channels = static_cast<int>(w.k.s.channels);
  bf16_t* to = out.data + w.at.begin * out.token + head * out.head;
#pragma unroll
  for (int i = threadIdx.x; i < kTile * 8; i += kGradientThreads) {
    const int r = i / 8;
    const int c = i % 8 * 8;
    const bf16_t* from = w.shared.M + r * kNarrow + c;
    if (r >= w.at.count) continue;
    if (out.vector && c + 8 <= channels) {
      *reinterpret_cast<uint4*>(to + r * out.token + c) = *reinterpret_cast<const uint4*>(from);
      continue;
    }
    for (int j = 0; j < 8 && c + j < channels; ++j) to[r * out.token + c + j] = from[j];
  }
}

// The head's sums over warps to memory.
__device__ void write_sums(const Worker& w, int head, float kept) {
  const GradientShared& shared = w.shared;
  const int i = static_cast<int>(threadIdx.x);
  const int64_t at = w.tile * w.k.s.heads + head;
  if (i < kTile) {
    w.k.g.rows[at * kTile + i] = shared.rows[0][i] + shared.rows[1][i];
  } else if (i < 2 * kTile) {
    const int j = i - kTile;
    float col = shared.cols[0][j];
    for (int p = 1; p < kGradientWarps / 2; ++p) col += shared.cols[p][j];
    w.k.g.cols[at * kTile + j] = col;
  } else if (i < 3 * kTile) {
    const int j = i - 2 * kTile;
    if (j < w.at.count) w.k.g.diagonal[head * w.k.s.tokens + w.at.begin + j] = shared.diagonal[j];
  } else if (i < 3 * kTile + 2) {
    const float* parts = shared.parts[i - 3 * kTile];
    float sum = parts[0];
    for (int p = 1; p < kGradientWarps; ++p) sum += parts[p];
    if (i == 3 * kTile)
      w.k.g.chain[at] = sum * kept;
    else
      w.k.g.dD_parts[at] = sum;
  }
}

// Sums += the rows of a (or its columns) times the tile b, of dG with B or C.
template <bool kTransposed>
__device__ __forceinline__ void add_pairs(float (&sums)[8][4], const Worker& w,
                                          const bf16_t* b_tile) {
  const int begin = kTransposed ? w.row : 0;
  const int end = kTransposed ? kTile : w.row + 16;  // what lies above the diagonal is zero
#pragma unroll 1
  for (int k = begin; k < end; k += 16) {
    uint32_t a[4];
    if (kTransposed)
      load_cols_t(a, w.shared.M + k * kNarrow + w.row, kNarrow);
    else
      load_rows(a, w.shared.M + w.row * kNarrow + k, kNarrow);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];
      load_rows_t(b, b_tile + k * kWide + kTile * w.half + 16 * n, kWide);
      add_product(sums[2 * n], a, b[0], b[1]);
      add_product(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

__device__ void write_rows(float (&sums)[8][4], const Worker& w, bf16_t* to) {
  if (!w.has_states()) return;
  bf16_t* first =
      to + (w.group * w.k.s.tokens + w.at.begin + w.row) * w.k.s.padded_states + kTile * w.half;
  each_pair_of(sums, [&](int r, int c, float a, float b) {
    if (w.row + r < w.at.count) put_pair(first + r * w.k.s.padded_states + c, a, b);
  });
}

__global__ void __launch_bounds__(kGradientThreads, 1) tile_gradients_kernel(GradientPass k) {
  auto& shared = *dynamic_shared<GradientShared>();
  const Place place = block_place(k.s.groups, 1);
  const auto tile = static_cast<int>(place.slow);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Worker w{k,
                 shared,
                 tile,
                 static_cast<int>(place.fast),
                 rows_of(k.tiles[tile]),
                 k.saved[tile].place,
                 warp % 4 * 16,
                 warp / 4};
  copy_group<kGradientThreads>(shared.B, k.g.B, w.at, w.group, k.s);
  copy_group<kGradientThreads>(shared.C, k.g.C, w.at, w.group, k.s);
  if (w.place > 0) {
    copy_group<kGradientThreads>(shared.earlier_B, k.g.B, w.first(), w.group, k.s);
    copy_heads<kGradientThreads>(shared.earlier_x, k.g.x, w.first(), w.group, k.s);
  }
  w.copy(w.group, 0);
  close_copies();
  w.put(shared.heads[0], w.token(w.group));
  float state[8][4];
  w.load_saved(state, w.group);
  float products[4][4], dG[4][4], dB[8][4], dC[8][4];
  const float* of_pair = k.g.products + (tile * k.s.groups + w.group) * (kTile * kTile);
  each_pair_of(products, [&](int r, int c, float& a, float& b) {
    const float* from = of_pair + (w.row + r) * kTile + kHalf * w.half + c;
    a = from[0];
    b = from[1];
  });
  clear(dG);
  clear(dB);
  clear(dC);
  int stage = 0;
  const auto heads = static_cast<int>(k.s.heads);
  const auto groups = static_cast<int>(k.s.groups);
  for (int head = w.group; head < heads; head += groups, stage ^= 1) {
    const int next = head + groups;
    HeadScalars& scalars = shared.heads[stage];
    wait_for_copies<0>();
    __syncthreads();
    if (next < heads) w.copy(next, stage ^ 1);
    const Token token = w.token(min(next, heads - 1));
    advance(state, w, head, scalars);
    put_state(state, w, shared.dS[stage]);
    if (next < heads) w.load_saved(state, next);
    float sums[4][4];
    multiply_tokens(sums, w, stage);
    pair_terms(sums, products, dG, w, scalars);
    __syncthreads();  // S and M are whole, the earlier tile has been read
    if (w.place > 0 && next < heads)
      copy_heads<kGradientThreads>(shared.earlier_x, k.g.x, w.first(), next, k.s);
    close_copies();
    const int64_t dots = (int64_t{w.half} * k.s.heads + head) * k.s.tokens + w.at.begin;
    add_state_term(dC, w, shared.dy[stage], shared.S, shared.C, scalars.head, nullptr,
                   k.g.dC_dots + dots);
    add_state_term(dB, w, shared.x[stage], shared.dS[stage], shared.B, scalars.tail, scalars.dt,
                   k.g.dB_dots + dots);
    gradient_of_x(sums, w, scalars, stage);
    __syncthreads();  // M has been read
    put_dx(sums, w, head, stage);
    w.put(shared.heads[stage ^ 1], token);
    __syncthreads();
    write_dx(w, head);
    write_sums(w, head, scalars.kept);
  }
  wait_for_copies<0>();
  __syncthreads();
  each_pair_of(dG, [&](int r, int c, float a, float b) {
    put_pair(shared.M + (w.row + r) * kNarrow + kHalf * w.half + c, a, b);
  });
  __syncthreads();
  add_pairs<false>(dC, w, shared.B);
  add_pairs<true>(dB, w, shared.C);
  write_rows(dC, w, k.g.dC);
  write_rows(dB, w, k.g.dB);
}

}  // namespace

void tile_gradients(Context& ctx, const Plan& p, const TileGradients& g) {
  const GradientPass k{g, p.chunks, p.saved, p.decays, p.s};
  const dim3 grid(static_cast<unsigned>(p.tile_count * p.s.groups));
  launch(ctx, {grid, kGradientThreads, sizeof(GradientShared)}, tile_gradients_kernel, k);
}

}  // namespace nestling::cuda::scan
