// published_names.h - names of tensors as a family publishes them (Hugging Face's spelling).
//
// Blocks        Nemotron-H's layers are published one by one. Of the others a block is two layers here, a mixer of
//               tokens and a feed-forward: layer l is the first (l even) or second half of block l / 2, each with
//               one of the block's norms.
// Source        transformers: models/{nemotron_h,llama,qwen3,qwen3_moe,granitemoehybrid}.
#pragma once
#include <string>
#include <string_view>

#include "model/config.h"

namespace nestling {

// Of the tensor that Nemotron-H publishes as `suffix`, in layer `layer`, or of none (-1). {e} in it stands for the
// expert. Throws where the family has no such tensor.
std::string published_name(const ModelConfig& config, int64_t layer, std::string_view suffix);

// Whether what gates an activation and what it gates are rows of one tensor, gate first.
bool publishes_up_with_gate(Family family);
// Whether the matrices of experts are one tensor [experts, rows, columns].
bool publishes_experts_stacked(Family family);

// The layers of a published block; a pattern that is no whole blocks of the family throws kInput.
int64_t layers_of_block(Family family);
void check_blocks(const ModelConfig& config, const std::string& where);

// The same, and throws kInput where transformers itself refuses what config.json would say: a Llama whose hidden width is no
// multiple of its query heads, a Granite whose Mamba layers are no whole times as wide as the hidden state.
void check_published_form(const ModelConfig& config, const std::string& where);

}  // namespace nestling
