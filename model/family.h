// family.h - what is alike in all models of a family: the name of it, and what its layers compute.
#pragma once
#include <string>

#include "model/config.h"

namespace nestling {

// config.json's model_type: "nemotron_h", "llama", "qwen3", "qwen3_moe", "granitemoehybrid".
const char* family_name(Family family);
Family parse_family(const std::string& name);  // throws kInput, naming those there are

// Makes `config` one of the family: activation, norms of heads, kind of gate.
void set_family(ModelConfig& config, Family family);

// Whether heads are rotated, always or never; Granite's are as its models say.
bool always_rotates(Family family);
bool never_rotates(Family family);

// Throws kInput where a config says what no model of its family computes.
void check_family(const ModelConfig& config, const std::string& where);

}  // namespace nestling
