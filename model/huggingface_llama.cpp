#include <algorithm>

#include "model/config_json.h"
#include "model/family.h"
#include "model/huggingface_families.h"

namespace nestling {

namespace {

using namespace config_json;  // NOLINT(google-build-using-namespace): its functions are this file's vocabulary

constexpr std::initializer_list<const char*> kExperts = {"num_experts", "num_local_experts"};
constexpr int64_t kQwenHeadDim = 128;  // where config.json does not say

// Rotation without a rule, or by that of Llama 3.
void read_scaling(JsonRef rule, ModelConfig& c) {
  const JsonRef type = first(rule, {"rope_type", "type"});
  if (!type || type.string() == "default") return;
  if (type.string() != "llama3")
    type.fail(str("'", type.string(), "', only 'default' and 'llama3' are supported"));
  c.rope_scaling = {.factor = rule.at("factor").number(),
                    .low_freq_factor = rule.at("low_freq_factor").number(),
                    .high_freq_factor = rule.at("high_freq_factor").number(),
                    .original_max_positions = rule.at("original_max_position_embeddings").number()};
}

void refuse_unsupported(JsonRef root) {
  refuse_true(root, {"attention_bias", "mlp_bias", "use_sliding_window"});
  only(root, "hidden_act", "silu");
  const JsonRef types = root.find("layer_types");
  for (size_t i = 0; types && i < types.size(); ++i)
    if (types.at(i).string() != "full_attention")
      types.at(i).fail(str("'", types.at(i).string(), "', only full_attention is supported"));
}

// Blocks with experts by Qwen3-MoE's two rules.
bool has_experts(JsonRef root, int64_t block) {
  if (integer_or(root, kExperts, 0) == 0) return false;
  const int64_t step = integer_or(root, {"decoder_sparse_step"}, 1);
  if (step < 1) root.fail(str("decoder_sparse_step is ", step, ", needs 1 or more"));
  if ((block + 1) % step != 0) return false;
  const JsonRef dense = root.find("mlp_only_layers");
  for (size_t i = 0; dense && i < dense.size(); ++i)
    if (dense.at(i).integer() == block) return false;
  return true;
}

std::string pattern_of(JsonRef root, Family family) {
  const int64_t blocks = need(root, {"num_hidden_layers"});
  constexpr int64_t kMostBlocks = 2048;  // two layers each, as ModelConfig::validate
  if (blocks < 1 || blocks > kMostBlocks)
    root.fail(str("num_hidden_layers is ", blocks, ", needs 1 to ", kMostBlocks));
  std::string pattern;
  for (int64_t b = 0; b < blocks; ++b)
    pattern += family == Family::kQwen3Moe && has_experts(root, b) ? "*E" : "*-";
  return pattern;
}

const char* architecture_of(Family family) {
  if (family == Family::kLlama) return "LlamaForCausalLM";
  return family == Family::kQwen3 ? "Qwen3ForCausalLM" : "Qwen3MoeForCausalLM";
}

void write_experts(const ModelConfig& c, Json& j) {
  j["num_experts"] = c.experts;
  j["num_experts_per_tok"] = c.top_k;
  j["moe_intermediate_size"] = c.expert_ffn;
  j["norm_topk_prob"] = c.gate.renormalize;
  j["decoder_sparse_step"] = 1;
  j["mlp_only_layers"] = Json::array();
  for (int64_t l = 1; l < c.layers(); l += 2)
    if (c.kind(l) == LayerKind::kDense) j["mlp_only_layers"].push_back(l / 2);
}

}  // namespace

void read_rope(JsonRef root, ModelConfig& c) {
  const JsonRef joined = root.find("rope_parameters");
  const JsonRef from = joined ? joined : root;
  c.rope_theta = number_or(from, {"rope_theta"}, c.rope_theta);
  if (const JsonRef rule = joined ? joined : root.find("rope_scaling")) read_scaling(rule, c);
  const double share = number_or(from, {"partial_rotary_factor"}, 1.0);
  if (!(share > 0 && share <= 1))
    root.fail(str("partial_rotary_factor is ", share, ", needs a value in (0, 1]"));
  c.rotary = static_cast<int64_t>(static_cast<double>(c.head_dim) * share);
}

void write_rope(const ModelConfig& c, Json& j) {
  j["rope_theta"] = c.rope_theta;
  j["rope_scaling"] = nullptr;
  if (c.rotary != c.head_dim)
    j["partial_rotary_factor"] = static_cast<double>(c.rotary) / static_cast<double>(c.head_dim);
  const RopeScaling& s = c.rope_scaling;
  if (s.original_max_positions > 0)
    j["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", s.factor},
        {"low_freq_factor", s.low_freq_factor},
        {"high_freq_factor", s.high_freq_factor},
        {"original_max_position_embeddings", static_cast<int64_t>(s.original_max_positions)}};
}

ModelConfig read_llama_config(JsonRef root, Family family) {
  refuse_unsupported(root);
  ModelConfig c;
  set_family(c, family);
  c.pattern = pattern_of(root, family);
  c.eps = static_cast<float>(number_or(root, {"rms_norm_eps"}, 1e-6));
  c.query_heads = need(root, {"num_attention_heads"});
  c.kv_heads = integer_or(root, {"num_key_value_heads"}, c.query_heads);
  const int64_t share = family == Family::kLlama && c.query_heads > 0
                            ? need(root, {"hidden_size"}) / c.query_heads
                            : kQwenHeadDim;
  c.head_dim = integer_or(root, {"head_dim"}, share);
  read_rope(root, c);
  if (c.has(LayerKind::kDense)) c.ffn = need(root, {"intermediate_size"});
  if (!c.has(LayerKind::kMoe)) return c;
  c.experts = need(root, kExperts);
  c.top_k = need(root, {"num_experts_per_tok"});
  c.expert_ffn = need(root, {"moe_intermediate_size"});
  c.gate.renormalize = flag_or(root, {"norm_topk_prob"}, false);
  return c;
}

Json llama_config_json(const ModelConfig& c, StoredType type) {
  Json j = {{"architectures", {architecture_of(c.family)}},
            {"model_type", family_name(c.family)},
            {"num_hidden_layers", c.layers() / 2},
            {"rms_norm_eps", shortest(c.eps)},
            {"num_attention_heads", c.query_heads},
            {"num_key_value_heads", c.kv_heads},
            {"head_dim", c.head_dim},
            {"attention_bias", false},
            {"attention_dropout", 0.0},
            {"intermediate_size", std::max<int64_t>(c.ffn, c.ffn == 0 ? c.expert_ffn : 1)},
            {"hidden_act", "silu"}};
  if (c.family == Family::kLlama) j["mlp_bias"] = false;
  write_rope(c, j);
  if (c.has(LayerKind::kMoe)) write_experts(c, j);
  write_common(c, type, j);
  return j;
}

}  // namespace nestling
