// config.h - what an architecture is, in numbers. No pointers, no weights, no file names.
//
// A model is a list of residual layers, each one RMS norm and one mixer, written as a pattern with
// a character a layer: M Mamba-2, * attention, - dense feed-forward, E mixture of experts. Fields
// that a pattern does not use are zero. Families whose published blocks hold two norms and two
// mixers have two layers a block.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops/gate.h"
#include "kernels/ops/rope.h"

namespace nestling {

// Whose published form a model has: names of tensors, keys of config.json. No arithmetic depends on it.
enum class Family : uint8_t { kNemotronH, kLlama, kQwen3, kQwen3Moe, kGraniteHybrid };

// Of feed-forward layers and experts: down(relu(up)^2), or down(silu(gate) up).
enum class Activation : uint8_t { kSquaredRelu, kGatedSilu };

enum class LayerKind : char { kMamba = 'M', kAttention = '*', kDense = '-', kMoe = 'E' };

struct ModelConfig {
  Family family = Family::kNemotronH;
  std::string pattern;  // one LayerKind character a layer
  int64_t vocab = 0;
  int64_t hidden = 0;
  float eps = 1e-5f;  // of every RMS norm
  bool tied = false;  // the output projection is the embedding table

  int64_t query_heads = 0;  // a multiple of kv_heads
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool head_norm = false;     // RMS norm of every query and key head, before rotation
  int64_t rotary = 0;         // channels of a query or key head that are rotated; 0: no positions
  double rope_theta = 10000;  // base of their frequencies
  RopeScaling rope_scaling;
  float attention_scale = 0;  // of scores; 0: 1 / sqrt(head_dim)

  float embedding_scale = 1;  // of what the embedding looks up
  float residual_scale = 1;   // of what a mixer adds to the residual stream
  float logit_divisor = 1;    // what logits are divided by

  int64_t mamba_heads = 0;  // a multiple of groups
  int64_t mamba_head_dim = 0;
  int64_t state = 0;
  int64_t groups = 0;  // of B and C
  int64_t conv_kernel = 0;
  bool conv_bias = true;
  int64_t chunk = 128;  // of the scan: speed and rounding, not shape

  Activation activation = Activation::kSquaredRelu;
  int64_t ffn = 0;  // dense layers

  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t expert_ffn = 0;
  int64_t shared_ffn = 0;  // 0: no shared expert
  GateRule gate;

  int64_t max_positions = 0;  // what the parent was trained for; 0: not stated
  int64_t bos = -1;           // token ids; -1: none
  int64_t pad = -1;
  std::vector<int64_t> eos;

  int64_t layers() const { return static_cast<int64_t>(pattern.size()); }
  LayerKind kind(int64_t layer) const {
    return static_cast<LayerKind>(pattern[static_cast<size_t>(layer)]);
  }
  bool has(LayerKind k) const { return pattern.find(static_cast<char>(k)) != std::string::npos; }
  int64_t inner() const { return mamba_heads * mamba_head_dim; }

  // Throws a kInput Error naming the first field that is out of range or does not divide.
  // `where` is the file the numbers came from.
  void validate(const std::string& where) const;
};

}  // namespace nestling
