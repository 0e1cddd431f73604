#include "model/gguf.h"

namespace nestling {

namespace {

// What llama.cpp's converter says of models without positions whose context is not stated.
constexpr int64_t kAnyContext = int64_t{1} << 20;

// Keys of one architecture, which stand under its name.
class ArchitectureKeys {
 public:
  explicit ArchitectureKeys(std::string name) : name_(std::move(name)) {}
  void add(const char* key, GgufValue value) {
    keys_.push_back({name_ + "." + key, std::move(value)});
  }
  void count(const char* key, int64_t value) { add(key, static_cast<uint32_t>(value)); }
  std::vector<GgufKey> take() { return std::move(keys_); }

 private:
  std::string name_;
  std::vector<GgufKey> keys_;
};

// A width a layer: `width` where it is of one of these kinds, else 0.
std::vector<int32_t> by_layer(const ModelConfig& c, std::initializer_list<LayerKind> kinds,
                              int64_t width) {
  std::vector<int32_t> widths(c.pattern.size());
  for (int64_t l = 0; l < c.layers(); ++l)
    for (const LayerKind kind : kinds)
      if (c.kind(l) == kind) widths[static_cast<size_t>(l)] = static_cast<int32_t>(width);
  return widths;
}

void add_moe(ArchitectureKeys& keys, const ModelConfig& c) {
  keys.count("expert_count", c.experts);
  keys.count("expert_used_count", c.top_k);
  keys.count("expert_feed_forward_length", c.expert_ffn);
  keys.count("expert_shared_feed_forward_length", c.shared_ffn);
  keys.count("expert_shared_count", 1);
  keys.add("expert_weights_norm", c.gate.renormalize);
  keys.add("expert_weights_scale", c.gate.scale);
  if (c.gate.top_groups == c.gate.groups) return;  // no group is left out
  keys.count("expert_group_count", c.gate.groups);
  keys.count("expert_group_used_count", c.gate.top_groups);
}

}  // namespace

void check_gguf_config(const ModelConfig& c, const std::string& where) {
  const auto need = [&](bool holds, const char* what) {
    NESTLING_CHECK_INPUT(holds, where, ": llama.cpp runs no ", what);
  };
  const bool moe = c.has(LayerKind::kMoe);
  need(!moe || !c.has(LayerKind::kDense), "model of this family with both dense and expert layers");
  need(c.has(LayerKind::kMamba), "model of this family without a Mamba layer");
  need(c.has(LayerKind::kAttention), "model of this family without an attention layer");
  need(!moe || c.shared_ffn > 0, "model of this family whose experts have no shared one");
  const bool grouped = moe && c.gate.top_groups < c.gate.groups;
  need(!grouped || c.experts / c.gate.groups > 1, "groups of experts with one expert each");
}

std::string gguf_architecture(const ModelConfig& c) {
  return c.has(LayerKind::kMoe) ? "nemotron_h_moe" : "nemotron_h";
}

std::vector<GgufKey> gguf_model_keys(const ModelConfig& c) {
  ArchitectureKeys keys(gguf_architecture(c));
  keys.count("block_count", c.layers());
  keys.count("context_length", c.max_positions > 0 ? c.max_positions : kAnyContext);
  keys.count("embedding_length", c.hidden);
  keys.count("vocab_size", c.vocab);
  const bool moe = c.has(LayerKind::kMoe);
  keys.add("feed_forward_length",
           by_layer(c, {LayerKind::kDense, LayerKind::kMoe}, moe ? c.expert_ffn : c.ffn));
  keys.count("attention.head_count", c.query_heads);
  keys.add("attention.head_count_kv", by_layer(c, {LayerKind::kAttention}, c.kv_heads));
  keys.count("attention.key_length", c.head_dim);
  keys.count("attention.value_length", c.head_dim);
  keys.add("attention.layer_norm_epsilon", c.eps);
  keys.add("attention.layer_norm_rms_epsilon", c.eps);
  keys.add("rope.scaling.finetuned", false);
  keys.count("ssm.conv_kernel", c.conv_kernel);
  keys.count("ssm.inner_size", c.inner());
  keys.count("ssm.state_size", c.state);
  keys.count("ssm.time_step_rank", c.mamba_heads);
  keys.count("ssm.group_count", c.groups);
  if (moe) add_moe(keys, c);
  return keys.take();
}

}  // namespace nestling
