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
#include <vector>

#include "runtime/sequence.h"

namespace nestling {

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options);

}  // namespace nestling
