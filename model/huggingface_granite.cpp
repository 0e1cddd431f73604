#include <algorithm>

#include "model/config_json.h"
#include "model/family.h"
#include "model/huggingface_families.h"

namespace nestling {

namespace {

using namespace config_json;  // NOLINT(google-build-using-namespace): its functions are this file's vocabulary

void refuse_unsupported(JsonRef root) {
  refuse_true(root, {"attention_bias", "mamba_proj_bias"});
  only(root, "hidden_act", "silu");
  only(root, "normalization_function", "rmsnorm");
  refuse_time_step_limit(root);
}

// A block is a mixer of tokens, then experts beside the shared one, or that alone.
std::string pattern_of(JsonRef root, bool experts) {
  const JsonRef names = first(root, {"layer_types", "layers_block_type"});
  if (!names) root.fail("key 'layer_types' is missing");
  std::string pattern;
  for (size_t i = 0; i < names.size(); ++i) {
    const char mixer = layer_letter(names.at(i));
    if (mixer != 'M' && mixer != '*') names.at(i).fail("needs mamba or attention");
    pattern += mixer;
    pattern += experts ? 'E' : '-';
  }
  const int64_t blocks = need(root, {"num_hidden_layers"});
  if (blocks != std::ssize(pattern) / 2)
    root.fail(str("num_hidden_layers is ", blocks, ", the list of layers has ", names.size()));
  return pattern;
}

void read_attention(JsonRef root, ModelConfig& c) {
  c.query_heads = need(root, {"num_attention_heads"});
  c.kv_heads = integer_or(root, {"num_key_value_heads"}, c.query_heads);
  const int64_t hidden = need(root, {"hidden_size"});
  c.head_dim = integer_or(root, {"head_dim"}, c.query_heads > 0 ? hidden / c.query_heads : 0);
  c.attention_scale = static_cast<float>(number_or(root, {"attention_multiplier"}, 1.0));
  const JsonRef positions = root.find("position_embedding_type");
  if (!positions || positions.string() == "nope") return;
  if (positions.string() != "rope")
    positions.fail(str("'", positions.string(), "', needs nope or rope"));
  read_rope(root, c);
}

void read_mamba(JsonRef root, ModelConfig& c) {
  c.mamba_heads = need(root, {"mamba_n_heads"});
  const JsonRef dim = root.find("mamba_d_head");
  const bool stated = dim && !dim.is_string();
  const int64_t inner = integer_or(root, {"mamba_expand"}, 2) * need(root, {"hidden_size"});
  c.mamba_head_dim = stated ? dim.integer() : c.mamba_heads > 0 ? inner / c.mamba_heads : 0;
  c.state = need(root, {"mamba_d_state"});
  c.groups = integer_or(root, {"mamba_n_groups"}, 1);
  c.conv_kernel = need(root, {"mamba_d_conv"});
  c.conv_bias = flag_or(root, {"mamba_conv_bias"}, true);
  c.chunk = integer_or(root, {"mamba_chunk_size"}, 256);
}

void read_experts(JsonRef root, ModelConfig& c) {
  c.experts = need(root, {"num_local_experts"});
  c.top_k = need(root, {"num_experts_per_tok"});
  c.expert_ffn = need(root, {"intermediate_size"});
}

Json layer_types(const ModelConfig& c) {
  Json types = Json::array();
  for (int64_t l = 0; l < c.layers(); l += 2)
    types.push_back(c.kind(l) == LayerKind::kMamba ? "mamba" : "attention");
  return types;
}

void write_mamba(const ModelConfig& c, Json& j) {
  j["mamba_n_heads"] = c.mamba_heads;
  j["mamba_d_head"] = c.mamba_head_dim;
  j["mamba_d_state"] = c.state;
  j["mamba_n_groups"] = c.groups;
  j["mamba_d_conv"] = c.conv_kernel;
  j["mamba_conv_bias"] = c.conv_bias;
  j["mamba_chunk_size"] = c.chunk;
  j["mamba_proj_bias"] = false;
  j["mamba_expand"] = std::max<int64_t>(1, c.inner() / c.hidden);  // read where mamba_d_head is not
}

}  // namespace

ModelConfig read_granite_config(JsonRef root) {
  refuse_unsupported(root);
  const bool experts = integer_or(root, {"num_local_experts"}, 0) > 0;
  ModelConfig c;
  set_family(c, Family::kGraniteHybrid);
  c.pattern = pattern_of(root, experts);
  c.eps = static_cast<float>(number_or(root, {"rms_norm_eps"}, 1e-6));
  c.embedding_scale = static_cast<float>(number_or(root, {"embedding_multiplier"}, 1.0));
  c.residual_scale = static_cast<float>(number_or(root, {"residual_multiplier"}, 1.0));
  c.logit_divisor = static_cast<float>(number_or(root, {"logits_scaling"}, 1.0));
  if (c.has(LayerKind::kAttention)) read_attention(root, c);
  if (c.has(LayerKind::kMamba)) read_mamba(root, c);
  const int64_t shared = need(root, {"shared_intermediate_size"});
  if (!experts) {
    c.ffn = shared;
    return c;
  }
  c.shared_ffn = shared;
  read_experts(root, c);
  return c;
}

Json granite_config_json(const ModelConfig& c, StoredType type) {
  const auto or_one = [](int64_t x) { return x > 0 ? x : 1; };  // readers want every key positive
  const bool experts = c.has(LayerKind::kMoe);
  Json j = {{"architectures", {"GraniteMoeHybridForCausalLM"}},
            {"model_type", family_name(c.family)},
            {"num_hidden_layers", c.layers() / 2},
            {"layer_types", layer_types(c)},
            {"rms_norm_eps", shortest(c.eps)},
            {"num_attention_heads", or_one(c.query_heads)},
            {"num_key_value_heads", or_one(c.kv_heads)},
            {"attention_bias", false},
            {"attention_dropout", 0.0},
            {"hidden_act", "silu"},
            {"normalization_function", "rmsnorm"},
            {"position_embedding_type", c.rotary > 0 ? "rope" : "nope"},
            {"embedding_multiplier", shortest(c.embedding_scale)},
            {"residual_multiplier", shortest(c.residual_scale)},
            {"logits_scaling", shortest(c.logit_divisor)},
            {"attention_multiplier", shortest(c.attention_scale != 0 ? c.attention_scale : 1.0f)},
            {"num_local_experts", experts ? c.experts : 0},
            {"num_experts_per_tok", experts ? c.top_k : 0},
            {"intermediate_size", or_one(experts ? c.expert_ffn : c.ffn)},
            {"shared_intermediate_size", experts ? c.shared_ffn : c.ffn}};
  if (c.has(LayerKind::kAttention)) j["head_dim"] = c.head_dim;
  if (c.has(LayerKind::kMamba)) write_mamba(c, j);
  if (c.rotary > 0) write_rope(c, j);
  write_common(c, type, j);
  return j;
}

}  // namespace nestling
