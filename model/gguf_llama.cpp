// gguf_llama.cpp - architectures llama, qwen3 and qwen3moe: blocks of attention and a gated
// feed-forward.
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
// llama.cpp turns neighbouring channels of heads in llama, and those half a head apart in qwen3.
constexpr GgufName kLlamaNames[] = {
    {"input_layernorm.weight", "attn_norm.weight", GgufForm::kPlain},
    {"self_attn.q_proj.weight", "attn_q.weight", GgufForm::kRotated},
    {"self_attn.k_proj.weight", "attn_k.weight", GgufForm::kRotated},
    {"self_attn.v_proj.weight", "attn_v.weight", GgufForm::kProduct},
    {"self_attn.o_proj.weight", "attn_output.weight", GgufForm::kProduct},
    {"post_attention_layernorm.weight", "ffn_norm.weight", GgufForm::kPlain},
    {"mlp.gate_proj.weight", "ffn_gate.weight", GgufForm::kProduct},
    {"mlp.up_proj.weight", "ffn_up.weight", GgufForm::kProduct},
    {"mlp.down_proj.weight", "ffn_down.weight", GgufForm::kProduct},
};
constexpr GgufName kQwen3Names[] = {
    {"input_layernorm.weight", "attn_norm.weight", GgufForm::kPlain},
    {"self_attn.q_proj.weight", "attn_q.weight", GgufForm::kProduct},
    {"self_attn.k_proj.weight", "attn_k.weight", GgufForm::kProduct},
    {"self_attn.v_proj.weight", "attn_v.weight", GgufForm::kProduct},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", GgufForm::kPlain},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", GgufForm::kPlain},
    {"self_attn.o_proj.weight", "attn_output.weight", GgufForm::kProduct},
    {"post_attention_layernorm.weight", "ffn_norm.weight", GgufForm::kPlain},
    {"mlp.gate_proj.weight", "ffn_gate.weight", GgufForm::kProduct},
    {"mlp.up_proj.weight", "ffn_up.weight", GgufForm::kProduct},
    {"mlp.down_proj.weight", "ffn_down.weight", GgufForm::kProduct},
    {"mlp.gate.weight", "ffn_gate_inp.weight", GgufForm::kPlain},
    {"mlp.experts.{e}.gate_proj.weight", "ffn_gate_exps.weight", GgufForm::kProduct},
    {"mlp.experts.{e}.up_proj.weight", "ffn_up_exps.weight", GgufForm::kProduct},
    {"mlp.experts.{e}.down_proj.weight", "ffn_down_exps.weight", GgufForm::kProduct},
};

std::string blocks_of(int64_t blocks, LayerKind feeding) {
  const char block[] = {static_cast<char>(LayerKind::kAttention), static_cast<char>(feeding)};
  std::string pattern;
  for (int64_t b = 0; b < blocks; ++b) pattern.append(block, sizeof block);
  return pattern;
}

template <class Keys>
void visit_attention(Keys& keys, ModelConfig& c) {
  keys.width("attention.head_count", c.query_heads);
  if (c.kv_heads == 0) c.kv_heads = c.query_heads;
  keys.stated_width("attention.head_count_kv", c.kv_heads);
  if (c.head_dim == 0 && c.query_heads > 0) c.head_dim = c.hidden / c.query_heads;
  keys.stated_count("attention.key_length", c.head_dim);
  keys.same_count_if_stated("attention.value_length", c.head_dim);
  keys.number("attention.layer_norm_rms_epsilon", c.eps);
  if (c.rotary == 0) c.rotary = c.head_dim;
  keys.stated_count("rope.dimension_count", c.rotary);
  keys.stated_number("rope.freq_base", c.rope_theta);
  keys.check(c.rotary == c.head_dim,
             "rope.dimension_count is not attention.key_length: llama.cpp turns whole heads");
}

template <class Keys>
void visit(Keys& keys, ModelConfig& c, LayerKind feeding) {
  const bool moe = feeding == LayerKind::kMoe;
  c.pattern = blocks_of(visit_extents(keys, c, c.layers() / 2), feeding);
  if (moe) {
    keys.count("expert_count", c.experts);
    keys.width("expert_used_count", c.top_k);
    keys.width("expert_feed_forward_length", c.expert_ffn);
    keys.constant("feed_forward_length", static_cast<uint32_t>(c.expert_ffn));  // of no layer
  } else {
    keys.width("feed_forward_length", c.ffn);
  }
  visit_attention(keys, c);
}

void check(const ModelConfig& c, const std::string& where) {
  const auto need = [&](bool holds, const char* what) {
    NESTLING_CHECK_INPUT(holds, where, ": llama.cpp runs no ", what);
  };
  const bool qwen = c.family != Family::kLlama;
  const LayerKind feeding = c.family == Family::kQwen3Moe ? LayerKind::kMoe : LayerKind::kDense;
  need(c.layers() % 2 == 0 && c.pattern == blocks_of(c.layers() / 2, feeding),
       "model of this family whose layers are not attention and its feed-forward in turn");
  need(c.rotary == c.head_dim, "model of this family that turns a part of a head");
  need(!qwen || c.rope_scaling.original_max_positions == 0,
       "qwen3 with Llama 3's scaled positions");
  if (feeding != LayerKind::kMoe) return;
  need(c.shared_ffn == 0, "qwen3moe with a shared expert");
  need(c.gate.scale == 1, "qwen3moe whose experts' sum is scaled");
  need(c.gate.renormalize, "qwen3moe whose chosen experts' weights are not brought to a sum of 1");
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
  const bool moe = Architecture.feeding == LayerKind::kMoe;
  if (!moe) keys.at_most("expert_count", 0, "experts of this architecture are not supported");
  keys.at_most("expert_shared_feed_forward_length", 0, "a shared expert is not supported");
  constexpr int64_t kSoftmax = 1;
  keys.only("expert_gating_func", kSoftmax, "softmax");
  keys.plain_attention();
  set_family(c, Architecture.family);
  visit(keys, c, Architecture.feeding);
}

}  // namespace

const GgufArchitecture kGgufLlama = {.name = "llama",
                                     .family = Family::kLlama,
                                     .feeding = LayerKind::kDense,
                                     .beginning = "model.layers.",
                                     .model_names = kModelNames,
                                     .layer_names = kLlamaNames,
                                     .rope_factors = true,
                                     .check = check,
                                     .write = write<kGgufLlama>,
                                     .read = read<kGgufLlama>};
const GgufArchitecture kGgufQwen3 = {.name = "qwen3",
                                     .family = Family::kQwen3,
                                     .feeding = LayerKind::kDense,
                                     .beginning = "model.layers.",
                                     .model_names = kModelNames,
                                     .layer_names = kQwen3Names,
                                     .rope_factors = false,
                                     .check = check,
                                     .write = write<kGgufQwen3>,
                                     .read = read<kGgufQwen3>};
const GgufArchitecture kGgufQwen3Moe = {.name = "qwen3moe",
                                        .family = Family::kQwen3Moe,
                                        .feeding = LayerKind::kMoe,
                                        .beginning = "model.layers.",
                                        .model_names = kModelNames,
                                        .layer_names = kQwen3Names,
                                        .rope_factors = false,
                                        .check = check,
                                        .write = write<kGgufQwen3Moe>,
                                        .read = read<kGgufQwen3Moe>};

}  // namespace nestling
