#include "model/published_names.h"

#include <array>

#include "kernels/core/check.h"

namespace nestling {

namespace {

struct Name {
  std::string_view nemotron, other;
};

constexpr std::array kModel = {
    Name{"backbone.embeddings.weight", "model.embed_tokens.weight"},
    Name{"backbone.norm_f.weight", "model.norm.weight"},
    Name{"lm_head.weight", "lm_head.weight"},
};

constexpr std::array kLlama = {
    Name{"mixer.q_proj.weight", "self_attn.q_proj.weight"},
    Name{"mixer.k_proj.weight", "self_attn.k_proj.weight"},
    Name{"mixer.v_proj.weight", "self_attn.v_proj.weight"},
    Name{"mixer.o_proj.weight", "self_attn.o_proj.weight"},
    Name{"mixer.q_norm.weight", "self_attn.q_norm.weight"},
    Name{"mixer.k_norm.weight", "self_attn.k_norm.weight"},
    Name{"mixer.gate_proj.weight", "mlp.gate_proj.weight"},
    Name{"mixer.up_proj.weight", "mlp.up_proj.weight"},
    Name{"mixer.down_proj.weight", "mlp.down_proj.weight"},
    Name{"mixer.gate.weight", "mlp.gate.weight"},
    Name{"mixer.experts.{e}.gate_proj.weight", "mlp.experts.{e}.gate_proj.weight"},
    Name{"mixer.experts.{e}.up_proj.weight", "mlp.experts.{e}.up_proj.weight"},
    Name{"mixer.experts.{e}.down_proj.weight", "mlp.experts.{e}.down_proj.weight"},
};

// A dense block of Granite is the shared expert alone.
constexpr std::array kGranite = {
    Name{"mixer.q_proj.weight", "self_attn.q_proj.weight"},
    Name{"mixer.k_proj.weight", "self_attn.k_proj.weight"},
    Name{"mixer.v_proj.weight", "self_attn.v_proj.weight"},
    Name{"mixer.o_proj.weight", "self_attn.o_proj.weight"},
    Name{"mixer.in_proj.weight", "mamba.in_proj.weight"},
    Name{"mixer.conv1d.weight", "mamba.conv1d.weight"},
    Name{"mixer.conv1d.bias", "mamba.conv1d.bias"},
    Name{"mixer.A_log", "mamba.A_log"},
    Name{"mixer.D", "mamba.D"},
    Name{"mixer.dt_bias", "mamba.dt_bias"},
    Name{"mixer.norm.weight", "mamba.norm.weight"},
    Name{"mixer.out_proj.weight", "mamba.out_proj.weight"},
    Name{"mixer.gate_proj.weight", "shared_mlp.input_linear.weight"},
    Name{"mixer.up_proj.weight", "shared_mlp.input_linear.weight"},
    Name{"mixer.down_proj.weight", "shared_mlp.output_linear.weight"},
    Name{"mixer.gate.weight", "block_sparse_moe.router.layer.weight"},
    Name{"mixer.experts.{e}.gate_proj.weight", "block_sparse_moe.input_linear.weight"},
    Name{"mixer.experts.{e}.up_proj.weight", "block_sparse_moe.input_linear.weight"},
    Name{"mixer.experts.{e}.down_proj.weight", "block_sparse_moe.output_linear.weight"},
    Name{"mixer.shared_experts.gate_proj.weight", "shared_mlp.input_linear.weight"},
    Name{"mixer.shared_experts.up_proj.weight", "shared_mlp.input_linear.weight"},
    Name{"mixer.shared_experts.down_proj.weight", "shared_mlp.output_linear.weight"},
};

template <size_t kCount>
std::string_view find(const std::array<Name, kCount>& names, std::string_view suffix) {
  for (const Name& n : names)
    if (n.nemotron == suffix) return n.other;
  throw Error(str(suffix, ": this family publishes no such tensor"));
}

std::string_view in_block(Family family, int64_t layer, std::string_view suffix) {
  if (suffix == "norm.weight")
    return layer % 2 == 0 ? "input_layernorm.weight" : "post_attention_layernorm.weight";
  return family == Family::kGraniteHybrid ? find(kGranite, suffix) : find(kLlama, suffix);
}

// The kinds that the halves of a family's blocks may be.
struct Halves {
  std::string_view first, second;
};
Halves halves_of(Family family) {
  switch (family) {
    case Family::kLlama:
    case Family::kQwen3:
      return {"*", "-"};
    case Family::kQwen3Moe:
      return {"*", "-E"};
    case Family::kGraniteHybrid:
      return {"M*", "-E"};
    case Family::kNemotronH:
      break;
  }
  throw Error("a family whose blocks are single layers");
}

}  // namespace

std::string published_name(const ModelConfig& config, int64_t layer, std::string_view suffix) {
  if (config.family == Family::kNemotronH)
    return layer < 0 ? std::string(suffix) : str("backbone.layers.", layer, ".", suffix);
  if (layer < 0) return std::string(find(kModel, suffix));
  return str("model.layers.", layer / 2, ".", in_block(config.family, layer, suffix));
}

bool publishes_up_with_gate(Family family) {
  return family == Family::kGraniteHybrid;
}

bool publishes_experts_stacked(Family family) {
  return family == Family::kGraniteHybrid;
}

int64_t layers_of_block(Family family) {
  return family == Family::kNemotronH ? 1 : 2;
}

void check_blocks(const ModelConfig& config, const std::string& where) {
  if (layers_of_block(config.family) == 1) return;
  const Halves halves = halves_of(config.family);
  NESTLING_CHECK_INPUT(config.layers() % 2 == 0, where, ": pattern ", config.pattern,
                       " is no whole blocks, which are two layers each in this family");
  for (int64_t l = 0; l < config.layers(); ++l) {
    const std::string_view kinds = l % 2 == 0 ? halves.first : halves.second;
    const char kind = config.pattern[static_cast<size_t>(l)];
    NESTLING_CHECK_INPUT(kinds.find(kind) != std::string_view::npos, where, ": layer ", l, " is '",
                         kind, "'; the ", l % 2 == 0 ? "first" : "second",
                         " half of a block of this family is one of '", kinds, "'");
  }
}

void check_published_form(const ModelConfig& c, const std::string& where) {
  check_blocks(c, where);
  NESTLING_CHECK_INPUT(
      c.family != Family::kLlama || c.hidden % c.query_heads == 0, where, ": a hidden width of ",
      c.hidden, " with ", c.query_heads,
      " query heads: transformers refuses a Llama whose hidden width is no multiple "
      "of its heads; `nestling export` writes it for llama.cpp");
  const bool mamba = c.family == Family::kGraniteHybrid && c.has(LayerKind::kMamba);
  NESTLING_CHECK_INPUT(!mamba || c.inner() % c.hidden == 0, where, ": Mamba layers of ", c.inner(),
                       " channels with a hidden width of ", c.hidden,
                       ": transformers refuses a Granite in which the one is not a whole number of "
                       "times the other");
}

}  // namespace nestling
