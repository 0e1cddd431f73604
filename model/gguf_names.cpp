#include "model/gguf_names.h"

#include <bit>
#include <cmath>

namespace nestling {

namespace {

struct GgufName {
  const char* published;  // without the layer's beginning
  const char* gguf;
  GgufForm form;
};
constexpr GgufName kModelNames[] = {
    {"backbone.embeddings.weight", "token_embd.weight", GgufForm::kProduct},
    {"backbone.norm_f.weight", "output_norm.weight", GgufForm::kPlain},
    {"lm_head.weight", "output.weight", GgufForm::kProduct},
};
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

}  // namespace

GgufPlace place_in_gguf(const ParameterSpec& spec) {
  for (const GgufName& n : kModelNames)
    if (spec.layer < 0 && spec.published == n.published) return {n.gguf, n.form};
  const std::string beginning = str("backbone.layers.", spec.layer, ".");
  for (const GgufName& n : kLayerNames)
    if (spec.layer >= 0 && spec.published == beginning + n.published)
      return {str("blk.", spec.layer, ".", n.gguf), n.form};
  throw Error(str(spec.published, ": has no name in GGUF"));
}

std::vector<int64_t> gguf_shape(const ModelConfig& config, const ParameterSpec& spec,
                                GgufForm form) {
  const std::vector<int64_t>& shape = spec.published_shape;
  switch (form) {
    case GgufForm::kConv:
      return {shape[0], shape[2]};
    case GgufForm::kNegativeExp:
    case GgufForm::kColumn:
      return {shape[0], 1};
    case GgufForm::kGroups:
      return {config.groups, shape[0] / config.groups};
    case GgufForm::kPlain:
    case GgufForm::kProduct:
      break;
  }
  std::vector<int64_t> whole = shape;
  if (spec.stacked()) whole.insert(whole.begin(), spec.dims[0].extent);
  return whole;
}

std::string gguf_module(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  return name.substr(0, name.size() - kWeight.size());
}

float to_gguf_form(GgufForm form, float x) {
  return form == GgufForm::kNegativeExp ? -std::exp(x) : x;
}

float from_gguf_form(GgufForm form, float x) {
  if (form != GgufForm::kNegativeExp) return x;
  const auto nearest = static_cast<float>(std::log(-static_cast<double>(x)));
  constexpr uint32_t kLowerHalf = 0xffff;
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  const auto bf16 = std::bit_cast<float>((bits + kLowerHalf / 2 + 1) & ~kLowerHalf);
  const float step = std::nextafter(nearest, INFINITY), back = std::nextafter(nearest, -INFINITY);
  for (const float candidate : {bf16, nearest, step, back})
    if (-std::exp(candidate) == x) return candidate;
  return nearest;  // of a file whose writer has another exponential
}

}  // namespace nestling
