// tiny_model.h - a random hybrid model on disk, for tests that open one.
#pragma once
#include <filesystem>

#include "model/huggingface.h"
#include "model/weights.h"

namespace nestling::testing {

inline ModelConfig tiny_config(int64_t vocab) {
  ModelConfig c;
  c.pattern = "ME*-";
  c.vocab = vocab;
  c.hidden = 32;
  c.query_heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.mamba_heads = 4;
  c.mamba_head_dim = 8;
  c.state = 8;
  c.groups = 2;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.ffn = 48;
  c.experts = 6;
  c.top_k = 2;
  c.expert_ffn = 16;
  c.shared_ffn = 16;
  c.eos = {2};
  c.validate("tiny");
  return c;
}

// Writes config.json and model.safetensors (F32) into an existing directory.
inline void write_tiny_model(const std::filesystem::path& dir, int64_t vocab, uint64_t seed) {
  const ModelConfig config = tiny_config(vocab);
  Weights weights(config, Device::kCpu, {});
  weights.initialize(seed);
  export_weights(dir, config, weights, {.types = {}, .type = StoredType::kF32});
}

// The same with matrices ten times as large as at the start of training: what it says depends on all it has read.
inline void write_steep_model(const std::filesystem::path& dir, int64_t vocab, uint64_t seed) {
  const ModelConfig config = tiny_config(vocab);
  Weights weights(config, Device::kCpu, {});
  weights.initialize(seed);
  for (int64_t i = 0; i < weights.count(); ++i) {
    if (!weights.specs()[static_cast<size_t>(i)].decay) continue;
    const View w = weights.master(i);
    for (int64_t k = 0; k < w.size(); ++k) w.ptr<float>()[k] *= 10;
  }
  export_weights(dir, config, weights, {.types = {}, .type = StoredType::kF32});
}

}  // namespace nestling::testing
