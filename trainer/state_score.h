// state_score.h - how much each component of a Mamba layer's state contributes to its output.
//
//   score[n, g] += sum over tokens t of |C_t[n, g]| sqrt(sum over heads h of g, channels p of S_t[h, p, n]^2)
//
// Why           y_t[h, p] = sum_n C_t[n, g] S_t[h, p, n] + D x_t: cutting component n of group g takes
//               exactly the vector C_t[n, g] S_t[., ., n] out of the scan's output at token t, and the
//               score is the length of it, summed over tokens. No formula for this axis is published;
//               |C| alone or |C| |B| leave out what the decay keeps of a component.
// Shapes        as in kernels/ops/scan.h; score [N * G], n * groups + group.
// Cost          the recurrence run once more: 5 FLOPs a component and channel, 0.8% of a forward of
//               Nemotron 3 Nano, 3.4% of the seed parent's (both counted).
// Determinism   groups are dealt to threads whole: the same bits with any number of threads.
#pragma once
#include <span>

#include "kernels/ops/segments.h"
#include "model/layers/mamba.h"

namespace nestling {

// Host views. Accumulates.
struct StateScore {
  std::span<double> score;  // [N * G]
  ConstView x;              // [T, H, P]
  ConstView dt_raw;         // [T, H]
  ConstView B, C;           // [T, N, G]
  ConstView A_log;          // [H]
  ConstView dt_bias;        // [H]
  Segments segments;
};
void add_state_score(const StateScore& a);

}  // namespace nestling
