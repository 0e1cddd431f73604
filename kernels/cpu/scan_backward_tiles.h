// scan_backward_tiles.h - what the backward scan holds: its operands, a thread's tiles, a chunk.
// Internal to kernels/cpu/scan_backward*.
#pragma once
#include <vector>

#include "kernels/cpu/scan_groups.h"

namespace nestling::cpu::scan {

// Sums of one unit over all its tokens.
struct UnitSums {
  double dA_log, dD, ddt_bias;
};

struct Backward {
  Plan plan;
  const Segments* segments;
  int64_t chunk, tokens;
  Source x, dy, dt_raw, B, C;  // dt_raw.other is 1
  const float* A_log;
  const float* D;
  const float* dt_bias;
  ConstStates chunk_states;
  Target dx;
  float* ddt;      // [units, T]
  UnitSums* sums;  // [units]
  Target dB, dC;   // the operands
  float* shared;   // [buffers, 2, T, N]: dB and dC of pieces that share their group
  std::vector<int64_t> first_chunk;  // of each segment
};

// One thread's tiles; chunk rows unless said.
struct Tiles {
  float* groups_B;  // [groups, q, state_pitch] B, and behind each group's last unit its dB
  float* groups_C;  // [groups, q, state_pitch] the same of C
  float* B;         // the group at hand
  float* C;
  float* BT;        // [N, chunk_pitch]
  float* dB;        // [q, state_pitch] sums over the piece's units
  float* dC;        // [q, state_pitch]
  float* one;       // [q, state_pitch] dY S of one unit
  float* G;         // [q, chunk_pitch] C B^T, columns j <= i
  float* dG;        // [q, chunk_pitch] sums over the piece's units, zero for j > i
  float* GL;        // [q, chunk_pitch]
  float* dM;        // [q, chunk_pitch]
  float* X;         // [q, channel_pitch]
  float* dY;        // [q, channel_pitch]
  float* XT;        // [P, chunk_pitch]
  float* VT;        // [P, chunk_pitch]
  float* rows;      // [q, channel_pitch] VT^T
  float* dS;        // [units, P, state_pitch]
  float* ddt;       // [chunk_pitch] d dt_j, decays held fixed
  float* dsum;      // [chunk_pitch] d sum_i
  float* row_sums;  // [q, kLanes] K's row sums, lane by lane
  float* column;    // [chunk_pitch] column sums of K without the diagonal
  Decays d;
};

// Lays the tiles out from `at` on; with at == nullptr this only measures. Returns the floats taken.
// Every tile that is transposed has whole squares.
inline int64_t lay_out(Tiles& t, float* at, const Plan& plan) {
  const Extents& e = plan.e;
  int64_t used = 0;
  const auto take = [&](int64_t n) {
    float* p = at == nullptr ? nullptr : at + used;
    used += n;
    return p;
  };
  const int64_t tile = e.chunk_pitch * e.state_pitch;
  t.groups_B = take(plan.most_groups * tile);
  t.groups_C = take(plan.most_groups * tile);
  for (float** p : {&t.BT, &t.dB, &t.dC, &t.one}) *p = take(tile);
  for (float** p : {&t.G, &t.dG, &t.GL, &t.dM}) *p = take(e.chunk_pitch * e.chunk_pitch);
  for (float** p : {&t.X, &t.dY, &t.XT, &t.VT, &t.rows}) *p = take(e.channel_pitch * e.chunk_pitch);
  for (float** p : {&t.ddt, &t.dsum, &t.column}) *p = take(e.chunk_pitch);
  t.row_sums = take(e.chunk_pitch * simd::kLanes);
  t.dS = take(plan.most_units * e.channels * e.state_pitch);
  float* decays = take(kDecayRows * e.chunk_pitch);
  if (decays != nullptr) t.d = make_decays(decays, e.chunk_pitch);
  return padded(used);
}

// A chunk: tokens [t, t + q); `number` counts over all segments.
struct Chunk {
  int64_t t, q, number;
  bool first, last;  // of its segment
};

}  // namespace nestling::cpu::scan
