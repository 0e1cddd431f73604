// gguf_granite.cpp - architecture granitehybrid: blocks of Mamba or attention and a gated
// feed-forward, of one kind in all of them: a dense one, or experts beside a shared one.
#include <algorithm>
#include <array>

#include "model/family.h"
#include "model/gguf_architecture.h"
#include "model/gguf_key_list.h"

namespace nestling {

namespace {

constexpr GgufName kModelNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight", GgufForm::kProduct},
    {"model.norm.weight", "output_norm.weight", GgufForm::kPlain},
    {"lm_head.weight", "output.weight", GgufForm::kProduct},
};

// Those of both kinds of feed-forward, and then those of one.
template <size_t kCount>
constexpr auto names_with(const GgufName (&feeding)[kCount]) {
  constexpr GgufName kBoth[] = {
      {"input_layernorm.weight", "attn_norm.weight", GgufForm::kPlain},
      {"mamba.in_proj.weight", "ssm_in.weight", GgufForm::kProduct},
      {"mamba.conv1d.weight", "ssm_conv1d.weight", GgufForm::kConv},
      {"mamba.conv1d.bias", "ssm_conv1d.bias", GgufForm::kPlain},
      {"mamba.dt_bias", "ssm_dt.bias", GgufForm::kPlain},
      {"mamba.A_log", "ssm_a", GgufForm::kNegativeExp},
      {"mamba.D", "ssm_d", GgufForm::kColumn},
      {"mamba.norm.weight", "ssm_norm.weight", GgufForm::kGroups},
      {"mamba.out_proj.weight", "ssm_out.weight", GgufForm::kProduct},
      {"self_attn.q_proj.weight", "attn_q.weight", GgufForm::kRotated},
      {"self_attn.k_proj.weight", "attn_k.weight", GgufForm::kRotated},
      {"self_attn.v_proj.weight", "attn_v.weight", GgufForm::kProduct},
      {"self_attn.o_proj.weight", "attn_output.weight", GgufForm::kProduct},
      {"post_attention_layernorm.weight", "ffn_norm.weight", GgufForm::kPlain},
  };
  std::array<GgufName, std::size(kBoth) + kCount> names;
  std::copy(std::begin(feeding), std::end(feeding),
            std::copy(std::begin(kBoth), std::end(kBoth), names.begin()));
  return names;
}
constexpr auto kDenseNames = names_with({
    {"shared_mlp.input_linear.weight", "ffn_gate.weight", GgufForm::kProduct, "gate"},
    {"shared_mlp.input_linear.weight", "ffn_up.weight", GgufForm::kProduct, "up"},
    {"shared_mlp.output_linear.weight", "ffn_down.weight", GgufForm::kProduct},
});
constexpr auto kExpertNames = names_with({
    {"block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", GgufForm::kPlain},
    {"block_sparse_moe.input_linear.weight", "ffn_gate_exps.weight", GgufForm::kProduct, "gate"},
    {"block_sparse_moe.input_linear.weight", "ffn_up_exps.weight", GgufForm::kProduct, "up"},
    {"block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", GgufForm::kProduct},
    {"shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", GgufForm::kProduct, "gate"},
    {"shared_mlp.input_linear.weight", "ffn_up_shexp.weight", GgufForm::kProduct, "up"},
    {"shared_mlp.output_linear.weight", "ffn_down_shexp.weight", GgufForm::kProduct},
});

// llama.cpp takes a block without key and value heads for Mamba.
template <class Keys>
void visit_layers(Keys& keys, ModelConfig& c, LayerKind feeding) {
  std::vector<int64_t> heads;
  for (int64_t l = 0; l < c.layers(); l += 2)
    heads.push_back(c.kind(l) == LayerKind::kAttention ? c.kv_heads : 0);
  const int64_t blocks = visit_extents(keys, c, c.layers() / 2);
  keys.width("attention.head_count", c.query_heads);
  keys.by_layer("attention.head_count_kv", blocks, heads);
  c.kv_heads = largest(heads);
  c.pattern.clear();
  for (const int64_t n : heads) {
    c.pattern += static_cast<char>(n > 0 ? LayerKind::kAttention : LayerKind::kMamba);
    c.pattern += static_cast<char>(feeding);
  }
}

template <class Keys>
void visit_attention(Keys& keys, ModelConfig& c) {
  if (c.head_dim == 0 && c.query_heads > 0) c.head_dim = c.hidden / c.query_heads;
  keys.stated_count("attention.key_length", c.head_dim);
  keys.same_count_if_stated("attention.value_length", c.head_dim);
  keys.number("attention.layer_norm_rms_epsilon", c.eps);
  if (c.attention_scale != 0 || Keys::kReads)
    keys.stated_number("attention.scale", c.attention_scale);
  bool turned = c.rotary > 0 || Keys::kReads;
  keys.stated_flag("rope.scaling.finetuned", turned);
  int64_t rotary = c.rotary > 0 ? c.rotary : c.head_dim;
  keys.stated_count("rope.dimension_count", rotary);
  c.rotary = turned ? rotary : 0;
  if (turned) keys.stated_number("rope.freq_base", c.rope_theta);
}

template <class Keys>
void visit(Keys& keys, ModelConfig& c, LayerKind feeding) {
  visit_layers(keys, c, feeding);
  visit_attention(keys, c);
  if (feeding == LayerKind::kMoe) {
    keys.width("feed_forward_length", c.expert_ffn);
    keys.count("expert_count", c.experts);
    keys.width("expert_used_count", c.top_k);
    keys.count("expert_shared_feed_forward_length", c.shared_ffn);
  } else {
    keys.width("feed_forward_length", c.ffn);
  }
  visit_mamba(keys, c);
  keys.stated_number("embedding_scale", c.embedding_scale);
  keys.stated_number("residual_scale", c.residual_scale);
  keys.stated_number("logit_scale", c.logit_divisor);
  keys.own_count("nestling.chunk_size", c.chunk);
}

void check(const ModelConfig& c, const std::string& where) {
  const auto need = [&](bool holds, const char* what) {
    NESTLING_CHECK_INPUT(holds, where, ": llama.cpp runs no ", what);
  };
  need(!c.has(LayerKind::kMoe) || !c.has(LayerKind::kDense),
       "model of this family with both dense and expert layers");
  need(c.has(LayerKind::kMamba), "model of this family without a Mamba layer");
  need(c.has(LayerKind::kAttention), "model of this family without an attention layer");
  need(c.inner() == 2 * c.hidden,
       "model of this family whose Mamba layers are not twice as wide as its hidden state");
  need(!c.has(LayerKind::kMoe) || c.shared_ffn > 0, "granitehybrid without a shared expert");
  need(!c.has(LayerKind::kMoe) || c.gate.scale == 1, "granitehybrid with a scaled gate");
  need(c.rope_scaling.original_max_positions == 0, "granitehybrid with Llama 3's scaled positions");
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
  constexpr int64_t kSoftmax = 1;
  keys.only("expert_gating_func", kSoftmax, "softmax");
  keys.plain_attention();
  set_family(c, Architecture.family);
  visit(keys, c, Architecture.feeding);
}

}  // namespace

const GgufArchitecture kGgufGranite = {.name = "granitehybrid",
                                       .family = Family::kGraniteHybrid,
                                       .feeding = LayerKind::kDense,
                                       .beginning = "model.layers.",
                                       .model_names = kModelNames,
                                       .layer_names = kDenseNames,
                                       .with_or_without = true,
                                       .check = check,
                                       .write = write<kGgufGranite>,
                                       .read = read<kGgufGranite>};
const GgufArchitecture kGgufGraniteMoe = {.name = "granitehybrid",
                                          .family = Family::kGraniteHybrid,
                                          .feeding = LayerKind::kMoe,
                                          .beginning = "model.layers.",
                                          .model_names = kModelNames,
                                          .layer_names = kExpertNames,
                                          .with_or_without = true,
                                          .check = check,
                                          .write = write<kGgufGraniteMoe>,
                                          .read = read<kGgufGraniteMoe>};

}  // namespace nestling
