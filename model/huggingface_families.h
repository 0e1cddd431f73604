// huggingface_families.h - config.json of one family to the fields that it alone has, and back
// (model/huggingface.h). What all families share is read and written by the caller.
#pragma once
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/stored_type.h"
#include "model/config.h"

namespace nestling {

ModelConfig read_nemotron_config(JsonRef root);
Json nemotron_config_json(const ModelConfig& c, StoredType type);

// Llama, Qwen3 and Qwen3-MoE.
ModelConfig read_llama_config(JsonRef root, Family family);
Json llama_config_json(const ModelConfig& c, StoredType type);

// granitemoehybrid: Granite 4.
ModelConfig read_granite_config(JsonRef root);
Json granite_config_json(const ModelConfig& c, StoredType type);

// Of families that rotate: theta, scaling, how many channels of a head, in the spellings of transformers 4 and 5.
void read_rope(JsonRef root, ModelConfig& c);
void write_rope(const ModelConfig& c, Json& j);

}  // namespace nestling
