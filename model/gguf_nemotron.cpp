// gguf_nemotron.cpp - architectures nemotron_h and nemotron_h_moe.
#include "model/gguf_architecture.h"
#include "model/gguf_key_list.h"

namespace nestling {

namespace {

constexpr GgufName kModelNames[] = {
    {"backbone.embeddings.weight", "token_embd.weight", GgufForm::kProduct},
    {"backbone.norm_f.weight", "output_norm.weight", GgufForm::kPlain},
    {"lm_head.weight", "output.weight", GgufForm::kProduct},
};
// llama.cpp's converter puts the rows of query and key heads in pairs, of both alike, for a rotation
// that this architecture does not have: their products are the same, and they stay as published.
constexpr GgufName kLayerNames[] = {
    {"norm.weight", "attn_norm.weight", GgufForm::kPlain},
    {"mixer.in_proj.weight", "ssm_in.weight", GgufForm::kProduct},
    {"mixer.conv1d.weight", "ssm_conv1d.weight", GgufForm::kConv},
    {"mixer.conv1d.bias", "ssm_conv1d.bias", GgufForm::kPlain},
    {"mixer.dt_bias", "ssm_dt.bias", GgufForm::kPlain},
    {"mixer.A_log", "ssm_a", GgufForm::kNegativeExp},
    {"mixer.D", "ssm_d", GgufForm::kColumn},
    {"mixer.norm.weight", "ssm_norm.weight", GgufForm::kGroups},
    {"mixer.out_proj.weight", "ssm_out.weight", GgufForm::kProduct},
    {"mixer.q_proj.weight", "attn_q.weight", GgufForm::kProduct},
    {"mixer.k_proj.weight", "attn_k.weight", GgufForm::kProduct},
    {"mixer.v_proj.weight", "attn_v.weight", GgufForm::kProduct},
    {"mixer.o_proj.weight", "attn_output.weight", GgufForm::kProduct},
    {"mixer.up_proj.weight", "ffn_up.weight", GgufForm::kProduct},
    {"mixer.down_proj.weight", "ffn_down.weight", GgufForm::kProduct},
    {"mixer.gate.weight", "ffn_gate_inp.weight", GgufForm::kPlain},
    {"mixer.gate.e_score_correction_bias", "exp_probs_b.bias", GgufForm::kPlain},
    {"mixer.experts.{e}.up_proj.weight", "ffn_up_exps.weight", GgufForm::kProduct},
    {"mixer.experts.{e}.down_proj.weight", "ffn_down_exps.weight", GgufForm::kProduct},
    {"mixer.shared_experts.up_proj.weight", "ffn_up_shexp.weight", GgufForm::kProduct},
    {"mixer.shared_experts.down_proj.weight", "ffn_down_shexp.weight", GgufForm::kProduct},
};

// llama.cpp tells layers apart by these two widths; those without either are Mamba.
template <class Keys>
void visit_layers(Keys& keys, ModelConfig& c, LayerKind feeding) {
  int64_t& width = feeding == LayerKind::kMoe ? c.expert_ffn : c.ffn;
  std::vector<int64_t> ffn = by_layer(c, feeding, width);
  std::vector<int64_t> heads = by_layer(c, LayerKind::kAttention, c.kv_heads);
  const int64_t layers = visit_extents(keys, c, c.layers());
  keys.by_layer("feed_forward_length", layers, ffn);
  keys.width("attention.head_count", c.query_heads);
  keys.by_layer("attention.head_count_kv", layers, heads);
  c.pattern.assign(ffn.size(), static_cast<char>(LayerKind::kMamba));
  for (size_t l = 0; l < ffn.size(); ++l) {
    keys.check(ffn[l] == 0 || heads[l] == 0, "a layer has both heads and a feed-forward width");
    if (ffn[l] > 0) c.pattern[l] = static_cast<char>(feeding);
    if (heads[l] > 0) c.pattern[l] = static_cast<char>(LayerKind::kAttention);
  }
  width = largest(ffn);
  c.kv_heads = largest(heads);
}

template <class Keys>
void visit_moe(Keys& keys, ModelConfig& c) {
  GateRule& gate = c.gate;
  keys.count("expert_count", c.experts);
  keys.width("expert_used_count", c.top_k);
  keys.width("expert_feed_forward_length", c.expert_ffn);
  keys.count("expert_shared_feed_forward_length", c.shared_ffn);
  keys.constant("expert_shared_count", uint32_t{1});
  keys.flag("expert_weights_norm", gate.renormalize);
  keys.number("expert_weights_scale", gate.scale);
  if (gate.top_groups == gate.groups) gate.groups = gate.top_groups = 1;  // none is left out
  keys.count_or("expert_group_count", gate.groups, 1);
  if (gate.groups > 1) keys.count("expert_group_used_count", gate.top_groups);
}

template <class Keys>
void visit(Keys& keys, ModelConfig& c, LayerKind feeding) {
  visit_layers(keys, c, feeding);
  keys.count("attention.key_length", c.head_dim);
  keys.same_count("attention.value_length", c.head_dim);
  keys.number("attention.layer_norm_epsilon", c.eps);
  keys.stated_number("attention.layer_norm_rms_epsilon", c.eps);
  keys.constant("rope.scaling.finetuned", false);
  visit_mamba(keys, c);
  if (feeding == LayerKind::kMoe) visit_moe(keys, c);
  keys.own_count("nestling.chunk_size", c.chunk);
}

void check(const ModelConfig& c, const std::string& where) {
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

template <const GgufArchitecture& Architecture>
std::vector<GgufKey> write(const ModelConfig& c) {
  WriteKeys keys(Architecture.name);
  ModelConfig written = c;
  visit(keys, written, Architecture.feeding);
  return keys.take();
}

template <const GgufArchitecture& Architecture>
void read(const GgufFile& file, ModelConfig& c) {
  ReadKeys keys(file, Architecture.name);
  keys.at_most("moe_latent_size", 0, "latent experts are not supported");
  constexpr int64_t kSigmoid = 2;
  keys.only("expert_gating_func", kSigmoid, "sigmoid");
  visit(keys, c, Architecture.feeding);
}

}  // namespace

const GgufArchitecture kGgufNemotron = {.name = "nemotron_h",
                                        .family = Family::kNemotronH,
                                        .feeding = LayerKind::kDense,
                                        .beginning = "backbone.layers.",
                                        .model_names = kModelNames,
                                        .layer_names = kLayerNames,
                                        .rope_factors = false,
                                        .check = check,
                                        .write = write<kGgufNemotron>,
                                        .read = read<kGgufNemotron>};
const GgufArchitecture kGgufNemotronMoe = {.name = "nemotron_h_moe",
                                           .family = Family::kNemotronH,
                                           .feeding = LayerKind::kMoe,
                                           .beginning = "backbone.layers.",
                                           .model_names = kModelNames,
                                           .layer_names = kLayerNames,
                                           .rope_factors = false,
                                           .check = check,
                                           .write = write<kGgufNemotronMoe>,
                                           .read = read<kGgufNemotronMoe>};

}  // namespace nestling
