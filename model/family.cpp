#include "model/family.h"

#include <array>
#include <cmath>

#include "kernels/core/check.h"

namespace nestling {

namespace {

struct Rules {
  Family family;
  const char* name;
  Activation activation;
  bool head_norm;
  GateKind gate;
};
constexpr std::array kFamilies = {
    Rules{Family::kNemotronH, "nemotron_h", Activation::kSquaredRelu, false, GateKind::kSigmoid},
    Rules{Family::kLlama, "llama", Activation::kGatedSilu, false, GateKind::kSoftmaxTopK},
    Rules{Family::kQwen3, "qwen3", Activation::kGatedSilu, true, GateKind::kSoftmaxTopK},
    Rules{Family::kQwen3Moe, "qwen3_moe", Activation::kGatedSilu, true, GateKind::kSoftmaxTopK},
    Rules{Family::kGraniteHybrid, "granitemoehybrid", Activation::kGatedSilu, false,
          GateKind::kTopKSoftmax},
};

const Rules& rules_of(Family family) {
  for (const Rules& r : kFamilies)
    if (r.family == family) return r;
  throw Error("a family that has no rules");
}

void check_scales(const ModelConfig& c, const std::string& where) {
  for (const float scale : {c.embedding_scale, c.residual_scale, c.logit_divisor})
    NESTLING_CHECK_INPUT(std::isfinite(scale) && scale > 0, where, ": a scale is ", scale,
                         ", needs to be finite and above zero");
  NESTLING_CHECK_INPUT(std::isfinite(c.attention_scale) && c.attention_scale >= 0, where,
                       ": the scale of attention is ", c.attention_scale,
                       ", needs to be finite and not below zero");
  const bool scaled = c.embedding_scale != 1 || c.residual_scale != 1 || c.logit_divisor != 1 ||
                      c.attention_scale != 0;
  NESTLING_CHECK_INPUT(!scaled || c.family == Family::kGraniteHybrid, where, ": family ",
                       family_name(c.family),
                       " scales neither embeddings, scores, residuals nor logits");
}

}  // namespace

const char* family_name(Family family) {
  return rules_of(family).name;
}

Family parse_family(const std::string& name) {
  std::string known;
  for (const Rules& r : kFamilies) {
    if (name == r.name) return r.family;
    known += std::string(known.empty() ? "" : ", ") + r.name;
  }
  throw Error(str("model_type '", name, "' is not supported; there are ", known),
              ErrorKind::kInput);
}

void set_family(ModelConfig& config, Family family) {
  const Rules& r = rules_of(family);
  config.family = family;
  config.activation = r.activation;
  config.head_norm = r.head_norm;
  config.gate.kind = r.gate;
}

bool always_rotates(Family family) {
  return family == Family::kLlama || family == Family::kQwen3 || family == Family::kQwen3Moe;
}

bool never_rotates(Family family) {
  return family == Family::kNemotronH;
}

void check_family(const ModelConfig& c, const std::string& where) {
  const Rules& r = rules_of(c.family);
  const auto need = [&](bool holds, const char* what) {
    NESTLING_CHECK_INPUT(holds, where, ": family ", r.name, " has ", what);
  };
  need(c.activation == r.activation, "another feed-forward activation");
  need(c.head_norm == r.head_norm, r.head_norm ? "norms of heads" : "no norms of heads");
  need(c.gate.kind == r.gate, "another gate of experts");
  need(!c.has(LayerKind::kAttention) || !always_rotates(c.family) || c.rotary > 0, "rotated heads");
  need(!never_rotates(c.family) || c.rotary == 0, "no rotated heads");
  need(c.family != Family::kGraniteHybrid || !c.has(LayerKind::kDense) || !c.has(LayerKind::kMoe),
       "experts in every block or in none");
  check_scales(c, where);
}

}  // namespace nestling
