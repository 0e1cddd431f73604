// family_models.h - a small model of every family, with all that its layers can have.
#pragma once
#include <string>
#include <vector>

#include "model/family.h"

namespace nestling::testing {

inline ModelConfig gated_config(Family family, const std::string& pattern) {
  ModelConfig c;
  set_family(c, family);
  c.pattern = pattern;
  c.vocab = 40;
  c.hidden = 32;
  c.query_heads = 8;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.ffn = 48;
  return c;
}

inline void add_experts(ModelConfig& c) {
  c.experts = 6;
  c.top_k = 2;
  c.expert_ffn = 32;
}

inline ModelConfig llama_config() {
  ModelConfig c = gated_config(Family::kLlama, "*-*-");
  c.rotary = 8;
  c.rope_scaling = {
      .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_positions = 16};
  c.tied = true;
  c.validate("llama");
  return c;
}

inline ModelConfig qwen3_moe_config() {
  ModelConfig c = gated_config(Family::kQwen3Moe, "*-*E");
  c.rotary = 8;
  c.rope_theta = 1e6;
  add_experts(c);
  c.validate("qwen3_moe");
  return c;
}

inline ModelConfig granite_config() {
  ModelConfig c = gated_config(Family::kGraniteHybrid, "ME*E");
  c.ffn = 0;
  add_experts(c);
  c.shared_ffn = 48;
  c.mamba_heads = 8;
  c.mamba_head_dim = 8;
  c.state = 32;
  c.groups = 2;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.embedding_scale = 3;
  c.residual_scale = 0.4f;
  c.logit_divisor = 2.5f;
  c.attention_scale = 0.2f;
  c.validate("granite");
  return c;
}

inline std::vector<ModelConfig> family_configs() {
  return {llama_config(), qwen3_moe_config(), granite_config()};
}

}  // namespace nestling::testing
