#include "model/config.h"

#include <cmath>

#include "kernels/ops/rope.h"
#include "model/family.h"
#include "model/parameters.h"
#include "model/published_names.h"

namespace nestling {

namespace {

// No published model comes near these. Bytes and FLOPs of what is within them fit int64.
constexpr int64_t kMaxExtent = int64_t{1} << 24;
constexpr int64_t kMaxParameters = int64_t{1} << 50;

struct Checker {
  const std::string& where;

  void range(const char* field, int64_t value, int64_t low, int64_t high = kMaxExtent) const {
    NESTLING_CHECK_INPUT(value >= low && value <= high, where, ": ", field, " is ", value,
                         ", needs ", low, " to ", high);
  }
  void divides(const char* whole, int64_t a, const char* part, int64_t b) const {
    NESTLING_CHECK_INPUT(a % b == 0, where, ": ", whole, " is ", a, ", not a multiple of ", part,
                         " ", b);
  }
};

void validate_moe(const ModelConfig& c, const Checker& check) {
  check.range("n_routed_experts", c.experts, 1, 65536);
  check.range("num_experts_per_tok", c.top_k, 1, c.experts);
  check.range("moe_intermediate_size", c.expert_ffn, 1);
  check.range("moe_shared_expert_intermediate_size", c.shared_ffn, 0);
  check.range("n_group", c.gate.groups, 1, c.experts);
  check.divides("n_routed_experts", c.experts, "n_group", c.gate.groups);
  check.range("topk_group", c.gate.top_groups, 1, c.gate.groups);
  NESTLING_CHECK_INPUT(c.top_k <= c.experts / c.gate.groups * c.gate.top_groups, check.where,
                       ": num_experts_per_tok is ", c.top_k, ", but topk_group ", c.gate.top_groups,
                       " leaves ", c.experts / c.gate.groups * c.gate.top_groups,
                       " experts to choose from");
  NESTLING_CHECK_INPUT(std::isfinite(c.gate.scale), check.where, ": routed_scaling_factor is ",
                       c.gate.scale, ", needs a finite number");
}

void validate_positions(const ModelConfig& c, const Checker& check) {
  check.range("rotary channels of a head", c.rotary, 0, c.head_dim);
  NESTLING_CHECK_INPUT(c.rotary % 2 == 0, check.where, ": ", c.rotary,
                       " rotary channels of a head, needs an even number");
  if (c.rotary > 0)
    static_cast<void>(rope_inverse_frequencies(c.rotary, c.rope_theta, c.rope_scaling));
}

// Extents that are each within their range may have a product that is not.
void validate_size(const ModelConfig& c, const std::string& where) {
  double parameters = 0;
  for (const ParameterSpec& spec : parameter_list(c)) {
    double size = 1;
    std::string extents;
    for (const Dim& d : spec.dims) {
      size *= static_cast<double>(d.extent);
      extents += (extents.empty() ? "" : ",") + std::to_string(d.extent);
    }
    parameters += size;
    NESTLING_CHECK_INPUT(parameters <= static_cast<double>(kMaxParameters), where, ": ",
                         spec.published, " [", extents, "] brings the parameters to ", parameters,
                         ", needs at most ", kMaxParameters);
  }
}

}  // namespace

void ModelConfig::validate(const std::string& where) const {
  const Checker check{where};
  check.range("num_hidden_layers", layers(), 1, 4096);
  for (char k : pattern)
    NESTLING_CHECK_INPUT(k == 'M' || k == '*' || k == '-' || k == 'E', where,
                         ": layer pattern holds '", k, "', needs M, *, - or E");
  check.range("vocab_size", vocab, 1);
  check.range("hidden_size", hidden, 1);
  NESTLING_CHECK_INPUT(eps > 0 && eps < 1, where, ": layer_norm_epsilon is ", eps,
                       ", needs a value in (0, 1)");
  if (has(LayerKind::kAttention)) {
    check.range("num_key_value_heads", kv_heads, 1, 65536);
    check.range("num_attention_heads", query_heads, 1, 65536);
    check.divides("num_attention_heads", query_heads, "num_key_value_heads", kv_heads);
    check.range("head_dim", head_dim, 1, 4096);
    validate_positions(*this, check);
  }
  if (has(LayerKind::kMamba)) {
    check.range("n_groups", groups, 1, 65536);
    check.range("mamba_num_heads", mamba_heads, 1, 65536);
    check.divides("mamba_num_heads", mamba_heads, "n_groups", groups);
    check.range("mamba_head_dim", mamba_head_dim, 1, 4096);
    check.range("ssm_state_size", state, 1, 4096);
    check.range("conv_kernel", conv_kernel, 2, 64);
    check.range("chunk_size", chunk, 1, 1 << 16);
  }
  if (has(LayerKind::kDense)) check.range("intermediate_size", ffn, 1);
  if (has(LayerKind::kMoe)) validate_moe(*this, check);
  check_family(*this, where);
  check_blocks(*this, where);
  validate_size(*this, where);
}

}  // namespace nestling
