// sample.h - the next token from logits: temperature, top-k, top-p, or the arg max.
//
// Shapes        logits [B, V] f32   tokens [B] i32
// Order         temperature, then top-k, then top-p (nucleus: Holtzman et al. 2020), then one draw.
//               Ties go to the lower id. temperature 0 is the arg max and draws nothing.
// Randomness    a pure function of (seed, stream, position): repeats whatever the batch. Devices draw
//               the same number, and so the same token, but where the rounding of weights decides.
// Errors        a row whose largest logit is not finite, or that holds a NaN, throws, naming the row; on
//               CUDA when the Context is synchronized.
// Limits        CUDA: V <= 262144.
#pragma once
#include <span>

#include "kernels/core/context.h"

namespace nestling {

struct SamplingRule {
  float temperature = 0.0f;
  int64_t top_k = 0;  // 0: all
  float top_p = 1.0f;
  bool operator==(const SamplingRule&) const = default;
};
struct Sample {
  View tokens;       // [B] i32 overwritten
  ConstView logits;  // [B, V]
  SamplingRule rule;
  uint64_t seed;
  std::span<const uint64_t> streams;  // [B] one per sequence
  uint64_t position;                  // index of the token being drawn
};

void sample(Context& ctx, const Sample& a);

namespace cpu {
void run(Context& ctx, const Sample& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const Sample& a);
}  // namespace cuda

}  // namespace nestling
