// scan.h - the Mamba-2 state-space recurrence (Dao and Gu 2024, "Transformers are SSMs", sections
// 3 and 6), computed in chunks, and its gradients.
//
//   dt_t = softplus(dt_raw_t + dt_bias)          a_t = exp(-exp(A_log) dt_t)
//   S_t  = a_t S_{t-1} + dt_t x_t B_t^T          y_t = S_t C_t + D x_t
//
// Shapes        x, y [T, H, P]   dt_raw [T, H]   B, C [T, N, G]   A_log, D, dt_bias [H]
//               state [segments, H, P, N]        H heads, P channels, N state, G groups
// Groups        head h reads group h mod G (slot-major heads); H is a multiple of G.
// Dtypes        x, B and C are f32, or on CUDA bf16; y, dy, dx, dB and dC are as x. All else is f32, the
//               state always. dt is not clamped.
// Precision     f32: products in f32. bf16: products take bf16 operands and sum in f32; what enters
//               one and is not bf16 is rounded once (the state; x, dy, B and C scaled by decays; pairs
//               C_i.B_j with theirs), and so is the gradient of a state wherever it is used. Decays and
//               the gradient of dt are f32, sums of logs better.
// Segments      each starts from a zero state, or from `initial` where given.
// Chunk         a matter of speed and rounding only; any length, dividing nothing.
// Saved         `chunk_states` holds the state before every chunk: scan_chunks(segments, chunk) of
//               them; backward recomputes the rest.
// Elasticity    H, P and N come from the views: heads of the first slots are a prefix of dim 1.
// Determinism   same inputs, shapes, chunk and threads: same bits.
#pragma once
#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling {

int64_t scan_chunks(const Segments& segments, int64_t chunk);  // sum of ceil(length / chunk)

struct ScanForward {
  View y;                  // [T, H, P] overwritten
  View chunk_states = {};  // [scan_chunks, H, P, N] overwritten; leave out without a backward
  View final_state = {};   // [segments, H, P, N] overwritten; may be initial
  ConstView x;             // [T, H, P]
  ConstView dt_raw;        // [T, H]
  ConstView B;             // [T, N, G]
  ConstView C;             // [T, N, G]
  ConstView A_log;         // [H]
  ConstView D;             // [H]
  ConstView dt_bias;       // [H]
  ConstView initial = {};  // [segments, H, P, N]
  Segments segments;
  int64_t chunk;
};

struct ScanBackward {
  View dx;                                       // [T, H, P] overwritten
  View ddt_raw;                                  // [T, H]    overwritten
  View dB;                                       // [T, N, G] overwritten
  View dC;                                       // [T, N, G] overwritten
  View dA_log;                                   // [H] accumulated
  View dD;                                       // [H] accumulated
  View ddt_bias;                                 // [H] accumulated
  ConstView dy;                                  // [T, H, P]
  ConstView x, dt_raw, B, C, A_log, D, dt_bias;  // as in forward
  ConstView chunk_states;                        // [scan_chunks, H, P, N] saved by forward
  Segments segments;
  int64_t chunk;  // the forward's
};

// One token for each of B independent sequences: x, y [B, H, P], dt_raw [B, H], B, C [B, N, G].
struct ScanStep {
  View y;
  View state;  // [B, H, P, N] advanced by one token
  ConstView x, dt_raw, B, C, A_log, D, dt_bias;
};

void scan_forward(Context& ctx, const ScanForward& a);
void scan_backward(Context& ctx, const ScanBackward& a);
void scan_step(Context& ctx, const ScanStep& a);

namespace cpu {
void run(Context& ctx, const ScanForward& a);
void run(Context& ctx, const ScanBackward& a);
void run(Context& ctx, const ScanStep& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const ScanForward& a);
void run(Context& ctx, const ScanBackward& a);
void run(Context& ctx, const ScanStep& a);
}  // namespace cuda

}  // namespace nestling
