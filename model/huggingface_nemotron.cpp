#include "model/config_json.h"
#include "model/huggingface_families.h"

namespace nestling {

namespace {

using namespace config_json;  // NOLINT(google-build-using-namespace): its functions are this file's vocabulary

// A pattern string, or a list of names; Megatron's stage marks are dropped.
std::string layer_pattern(JsonRef root) {
  std::string pattern;
  if (const JsonRef text = root.find("hybrid_override_pattern")) {
    for (char k : text.string()) {
      if (k == '/') break;
      if (k != '|') pattern += k;
    }
  } else if (const JsonRef list = first(root, {"layers_block_type", "layer_types"})) {
    for (size_t i = 0; i < list.size(); ++i) pattern += layer_letter(list.at(i));
  } else {
    root.fail("neither hybrid_override_pattern nor layers_block_type is there");
  }
  const int64_t layers =
      integer_or(root, {"num_hidden_layers"}, static_cast<int64_t>(pattern.size()));
  if (layers != static_cast<int64_t>(pattern.size()))
    root.fail(str("num_hidden_layers is ", layers, ", the layer pattern has ", pattern.size()));
  return pattern;
}

void refuse_unsupported(JsonRef root) {
  refuse_true(root, {"attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias"});
  refuse_set(root, {"moe_latent_size", "sliding_window", "block_configs"});
  only(root, "mlp_hidden_act", "relu2");
  only(root, "mamba_hidden_act", "silu");
  refuse_time_step_limit(root);
}

void read_moe(JsonRef root, ModelConfig& c) {
  c.experts = need(root, {"n_routed_experts"});
  c.top_k = need(root, {"num_experts_per_tok"});
  c.expert_ffn = need(root, {"moe_intermediate_size"});
  const int64_t shared = integer_or(root, {"n_shared_experts"}, 1);
  c.shared_ffn = shared == 0 ? 0 : need(root, {"moe_shared_expert_intermediate_size"});
  c.gate.groups = integer_or(root, {"n_group"}, 1);
  c.gate.top_groups = integer_or(root, {"topk_group"}, 1);
  c.gate.renormalize = flag_or(root, {"norm_topk_prob"}, true);
  const JsonRef factor = root.find("routed_scaling_factor");
  c.gate.scale = factor ? static_cast<float>(factor.number()) : 1.0f;
}

void read_mamba(JsonRef root, ModelConfig& c) {
  c.mamba_heads = need(root, {"mamba_num_heads"});
  c.mamba_head_dim = need(root, {"mamba_head_dim"});
  c.state = need(root, {"ssm_state_size"});
  c.groups = need(root, {"n_groups", "mamba_n_groups"});
  c.conv_kernel = need(root, {"conv_kernel", "mamba_d_conv"});
  c.conv_bias = flag_or(root, {"use_conv_bias", "mamba_conv_bias"}, true);
  c.chunk = integer_or(root, {"chunk_size", "mamba_chunk_size"}, 128);
}

}  // namespace

ModelConfig read_nemotron_config(JsonRef root) {
  refuse_unsupported(root);
  ModelConfig c;
  c.pattern = layer_pattern(root);
  if (const JsonRef eps = first(root, {"layer_norm_epsilon", "norm_eps", "rms_norm_eps"}))
    c.eps = static_cast<float>(eps.number());
  if (c.has(LayerKind::kAttention)) {
    c.query_heads = need(root, {"num_attention_heads"});
    c.kv_heads = need(root, {"num_key_value_heads"});
    c.head_dim = need(root, {"head_dim", "attention_head_dim"});
  }
  if (c.has(LayerKind::kMamba)) read_mamba(root, c);
  if (c.has(LayerKind::kDense)) c.ffn = need(root, {"intermediate_size"});
  if (c.has(LayerKind::kMoe)) read_moe(root, c);
  return c;
}

Json nemotron_config_json(const ModelConfig& c, StoredType type) {
  const auto or_one = [](int64_t x) { return x > 0 ? x : 1; };  // readers want every key positive
  Json j = {{"architectures", {"NemotronHForCausalLM"}},
            {"model_type", "nemotron_h"},
            {"hybrid_override_pattern", c.pattern},
            {"num_hidden_layers", c.layers()},
            {"layer_norm_epsilon", shortest(c.eps)},
            {"norm_eps", shortest(c.eps)},
            {"num_attention_heads", or_one(c.query_heads)},
            {"num_key_value_heads", or_one(c.kv_heads)},
            {"head_dim", or_one(c.head_dim)},
            {"attention_bias", false},
            {"attention_dropout", 0.0},
            {"hidden_dropout", 0.0},
            {"mamba_num_heads", or_one(c.mamba_heads)},
            {"mamba_head_dim", or_one(c.mamba_head_dim)},
            {"ssm_state_size", or_one(c.state)},
            {"n_groups", or_one(c.groups)},
            {"conv_kernel", or_one(c.conv_kernel)},
            {"use_conv_bias", c.conv_bias},
            {"chunk_size", c.chunk},
            {"expand", 2},
            {"mamba_hidden_act", "silu"},
            {"mamba_proj_bias", false},
            {"mamba_ssm_cache_dtype", "float32"},
            {"time_step_min", 0.001},
            {"time_step_max", 0.1},
            {"time_step_floor", 0.0001},
            {"use_bias", false},
            {"mlp_bias", false},
            {"mlp_hidden_act", "relu2"},
            {"intermediate_size", or_one(c.ffn > 0 ? c.ffn : c.expert_ffn)},
            {"rescale_prenorm_residual", true},
            {"residual_in_fp32", false},
            {"num_logits_to_keep", 1}};
  write_common(c, type, j);
  if (c.has(LayerKind::kMoe)) {
    j["n_routed_experts"] = c.experts;
    j["num_experts_per_tok"] = c.top_k;
    j["moe_intermediate_size"] = c.expert_ffn;
    j["n_shared_experts"] = c.shared_ffn > 0 ? 1 : 0;
    j["moe_shared_expert_intermediate_size"] = c.shared_ffn;
    j["n_group"] = c.gate.groups;
    j["topk_group"] = c.gate.top_groups;
    j["norm_topk_prob"] = c.gate.renormalize;
    j["routed_scaling_factor"] = shortest(c.gate.scale);
  }
  return j;
}

}  // namespace nestling
