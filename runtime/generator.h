// generator.h - completions for a batch of prompts: one prefill, then token by token.
//
// Batch         prompts of any lengths; each stops at a stop token or at its limit of new tokens; its row
//               then leaves the batch.
// Thinking      under `control` (runtime/thinking.h) one size thinks and another answers: those that think run as one
//               batch, then, anew from their first tokens, those that answer. Afterwards, also where it throws, the
//               size is selected that was before.
// Determinism   a sequence's tokens depend on prompt, rule, seed and its stream alone up to rounding:
//               products over another number of rows may round differently.
#pragma once
#include <functional>
#include <vector>

#include "kernels/ops/sample.h"
#include "runtime/decode_state.h"
#include "runtime/thinking.h"

namespace nestling {

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  SamplingRule rule;
  uint64_t seed = 0;
  std::vector<int64_t> stop_tokens;  // ends a sequence; kept in its tokens
  ThinkingControl control = {};
  // Called with every new token of sequence i, as it comes, also with those that close thinking.
  std::function<void(size_t i, int32_t token)> on_token = nullptr;
};

// Whether the token ends a sequence.
bool is_stop(int32_t token, const GenerateOptions& options);

struct Generated {
  std::vector<int32_t> tokens;  // without the prompt
  bool stopped = false;         // by a stop token; else by the limit
  int64_t thinking = 0;         // tokens generated within thinking; 0 without a control
  int64_t again = 0;            // tokens, of the prompt too, run anew where another size took over
};

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options);

}  // namespace nestling
