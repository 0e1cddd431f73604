// state_score.h - how much each component of a Mamba layer's state contributes to its output.
//
//   score[n, g] += sum over tokens t of |C_t[n, g]| sqrt(sum over heads h of g, channels p of S_t[h, p, n]^2)
//
// Why           y_t[h, p] = sum_n C_t[n, g] S_t[h, p, n] + D x_t: cutting component n of group g takes
//               exactly the vector C_t[n, g] S_t[., ., n] out of the scan's output at token t, and the
//               score is the length of it, summed over tokens. No formula for this axis is published;
//               |C| alone or |C| |B| leave out what the decay keeps of a component.
// Shapes        as in scan.h; S is its recurrence, from a zero state in every segment
// Dtypes        x, B and C f32, or off the CPU bf16; the state f32; score f64
// Cost          the recurrence run once more, token by token: 5 FLOPs a component and channel, 0.8% of a forward
//               of Nemotron 3 Nano, 3.4% of tiny-reasoner's (both counted).
// Scratch       CUDA: 2 T H f32, and T N G f32 for each 512 rows (h, p) of a group.
// Determinism   same inputs and shapes: same bits. On the CPU with any number of threads.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling {

struct StateScore {
  View score;         // [N, G] f64, dense, accumulated
  ConstView x;        // [T, H, P]
  ConstView dt_raw;   // [T, H]
  ConstView B, C;     // [T, N, G]
  ConstView A_log;    // [H]
  ConstView dt_bias;  // [H]
  Segments segments;
};

void add_state_score(Context& ctx, const StateScore& a);

namespace cpu {
void run(Context& ctx, const StateScore& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const StateScore& a);
}  // namespace cuda

}  // namespace nestling
