// logprobs.h - what a row of logits says of a token, and the tokens that it says are the most
// likely.
//
//   logprob = logit - log sum exp(logits)     without temperature; sums in f64
//
// Order         the most likely first; ties go to the lower id, as the arg max
//               (kernels/ops/sample.h).
#pragma once
#include <vector>

#include "kernels/core/view.h"

namespace nestling {

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;
};
struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};

// logits [V] f32 in host memory. `most`: how many of the most likely.
TokenLogprobs token_logprobs(ConstView logits, int32_t token, int64_t most);

}  // namespace nestling
