#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/huggingface.h"

namespace nestling {

namespace {

// The first of several spellings that is present and not null.
JsonRef first(JsonRef root, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (const JsonRef value = root.find(key)) return value;
  return {};
}

int64_t need(JsonRef root, std::initializer_list<const char*> keys) {
  const JsonRef value = first(root, keys);
  if (!value) root.fail(str("key '", *keys.begin(), "' is missing"));
  return value.integer();
}
int64_t integer_or(JsonRef root, std::initializer_list<const char*> keys, int64_t otherwise) {
  const JsonRef value = first(root, keys);
  return value ? value.integer() : otherwise;
}
bool flag_or(JsonRef root, std::initializer_list<const char*> keys, bool otherwise) {
  const JsonRef value = first(root, keys);
  return value ? value.boolean() : otherwise;
}

char layer_letter(JsonRef name) {
  const std::string& s = name.string();
  if (s == "mamba" || s == "linear_attention") return 'M';
  if (s == "attention" || s == "full_attention") return '*';
  if (s == "mlp") return '-';
  if (s == "moe") return 'E';
  name.fail(str("layer type '", s, "', needs mamba, attention, mlp or moe"));
}

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

// A number, also in transformers' spelling of one that JSON cannot hold.
double real(JsonRef value) {
  if (!value.is_object()) return value.number();
  const std::string& text = value.at("__float__").string();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  value.fail(str("__float__ '", text, "'"));
}

void refuse_unsupported(JsonRef root) {
  for (const char* key : {"attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias"})
    if (flag_or(root, {key}, false))
      root.fail(str(key, " is true: biases of this kind are not supported"));
  for (const char* key : {"moe_latent_size", "sliding_window", "block_configs"})
    if (root.find(key)) root.fail(str(key, " is set: not supported"));
  const auto only = [&](const char* key, const char* value) {
    const JsonRef found = root.find(key);
    if (found && found.string() != value)
      found.fail(str("'", found.string(), "', only '", value, "' is supported"));
  };
  only("mlp_hidden_act", "relu2");
  only("mamba_hidden_act", "silu");
  if (const JsonRef limit = first(root, {"time_step_limit", "mamba_dt_limit"}))
    if (limit.size() != 2 || real(limit.at(size_t{0})) > 0 ||
        real(limit.at(1)) < std::numeric_limits<double>::infinity())
      limit.fail("dt is never clamped here, needs [0, Infinity]");
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

void read_tokens(JsonRef root, ModelConfig& c) {
  c.bos = integer_or(root, {"bos_token_id"}, -1);
  c.pad = integer_or(root, {"pad_token_id"}, -1);
  const JsonRef eos = root.find("eos_token_id");
  if (!eos) return;
  if (!eos.is_array()) {
    c.eos = {eos.integer()};
    return;
  }
  for (size_t i = 0; i < eos.size(); ++i) c.eos.push_back(eos.at(i).integer());
}

// The double that prints as the float does: 1e-05, not 9.99999974e-06.
double shortest(float x) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;
  double value = 0;
  std::from_chars(text, end, value);
  return value;
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "config.json";
  NESTLING_CHECK_INPUT(std::filesystem::exists(file), file.string(),
                       ": not found; a model is a directory with config.json and safetensors");
  const JsonDocument document = read_json(file, kHuggingFaceJson);
  return parse_model_config(document.root(), file.string());
}

ModelConfig parse_model_config(JsonRef root, const std::string& where) {
  const std::string& type = root.at("model_type").string();
  if (type != "nemotron_h")
    root.fail(str("model_type '", type, "', only 'nemotron_h' is supported"));
  refuse_unsupported(root);
  ModelConfig c;
  c.pattern = layer_pattern(root);
  c.vocab = need(root, {"vocab_size"});
  c.hidden = need(root, {"hidden_size"});
  if (const JsonRef eps = first(root, {"layer_norm_epsilon", "norm_eps", "rms_norm_eps"}))
    c.eps = static_cast<float>(eps.number());
  c.tied = flag_or(root, {"tie_word_embeddings"}, false);
  if (c.has(LayerKind::kAttention)) {
    c.query_heads = need(root, {"num_attention_heads"});
    c.kv_heads = need(root, {"num_key_value_heads"});
    c.head_dim = need(root, {"head_dim", "attention_head_dim"});
  }
  if (c.has(LayerKind::kMamba)) read_mamba(root, c);
  if (c.has(LayerKind::kDense)) c.ffn = need(root, {"intermediate_size"});
  if (c.has(LayerKind::kMoe)) read_moe(root, c);
  c.max_positions = integer_or(root, {"max_position_embeddings"}, 0);
  read_tokens(root, c);
  c.validate(where);
  return c;
}

Json model_config_json(const ModelConfig& c, StoredType type) {
  const auto or_one = [](int64_t x) { return x > 0 ? x : 1; };  // readers want every key positive
  Json j = {{"architectures", {"NemotronHForCausalLM"}},
            {"model_type", "nemotron_h"},
            {"hybrid_override_pattern", c.pattern},
            {"num_hidden_layers", c.layers()},
            {"vocab_size", c.vocab},
            {"hidden_size", c.hidden},
            {"layer_norm_epsilon", shortest(c.eps)},
            {"norm_eps", shortest(c.eps)},
            {"tie_word_embeddings", c.tied},
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
            {"initializer_range", 0.02},
            {"rescale_prenorm_residual", true},
            {"residual_in_fp32", false},
            {"num_logits_to_keep", 1},
            {"use_cache", true},
            {"torch_dtype", type == StoredType::kBF16 ? "bfloat16" : "float32"}};
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
  if (c.max_positions > 0) j["max_position_embeddings"] = c.max_positions;
  if (c.bos >= 0) j["bos_token_id"] = c.bos;
  if (c.pad >= 0) j["pad_token_id"] = c.pad;
  if (c.eos.size() == 1) j["eos_token_id"] = c.eos[0];
  if (c.eos.size() > 1) j["eos_token_id"] = c.eos;
  return j;
}

}  // namespace nestling
