// rope.h - rotary position embedding, half-rotation form (Su et al. 2021; Hugging Face's
// rotate_half): (a, b) -> (a cos - b sin, b cos + a sin) for the pairs (i, i + r/2).
//
// Shapes        x [T, heads, h] rotated in place over its first `rotary` channels; inv_freq [rotary/2]
//               and starts [segments], on the host
// Position      of token t of segment i: starts[i] + t - begin(i). Of a step every sequence is a segment of
//               one token that starts at its length.
// Dtypes        f32, on CUDA or bf16, rounded once; angles in f64.
// Gradient      the inverse rotation: pass inverse = true on dx.
// Elasticity    the heads come from the view: a prefix of dim 1 leaves the others untouched.
// Determinism   a token's result depends on that token alone.
#pragma once
#include <span>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling {

// Frequencies of the common schemes; `llama3` follows Llama 3.1's published scaling rule.
struct RopeScaling {
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_positions = 0;  // 0: no scaling
};
// What a frequency is multiplied by; 1 without scaling.
double rope_slowing(double frequency, const RopeScaling& scaling);
std::vector<float> rope_inverse_frequencies(int64_t rotary, double theta,
                                            const RopeScaling& scaling);

struct Rope {
  View x;                                // [T, heads, h] rotated in place
  std::span<const float> inv_freq;       // [rotary / 2]
  Segments segments;                     // of the T tokens
  std::span<const int32_t> starts = {};  // position of each segment's first token; absent: 0
  bool inverse = false;
};

void rope(Context& ctx, const Rope& a);

namespace cpu {
void run(Context& ctx, const Rope& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Rope& a);
}  // namespace cuda

}  // namespace nestling
