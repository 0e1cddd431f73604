#include "model/cost.h"

#include <gtest/gtest.h>
#include <map>
#include <set>

#include "model/huggingface.h"
#include "model/parameters.h"
#include "tests/support/source_dir.h"

namespace nestling {
namespace {

// Nemotron 3 Nano 30B-A3B as published (config.json of the BF16 release).
ModelConfig nano3() {
  ModelConfig c;
  c.pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME";
  c.vocab = 131072;
  c.hidden = 2688;
  c.query_heads = 32;
  c.kv_heads = 2;
  c.head_dim = 128;
  c.mamba_heads = 64;
  c.mamba_head_dim = 64;
  c.state = 128;
  c.groups = 8;
  c.conv_kernel = 4;
  c.experts = 128;
  c.top_k = 6;
  c.expert_ffn = 1856;
  c.shared_ffn = 3712;
  c.validate("nano3");
  return c;
}

TEST(Cost, ReproducesThePublishedNanoCounts) {
  const ParameterCost cost = parameter_cost(nano3());
  // Published: 31.58B total, 3.58B active, to the digits given.
  EXPECT_NEAR(static_cast<double>(cost.total) / 1e9, 31.58, 0.005);
  EXPECT_NEAR(static_cast<double>(cost.active) / 1e9, 3.58, 0.005);
}

// The published layer shapes, five layers of them.
TEST(Cost, TrueWidthModelsAreNanosLayers) {
  struct Case {
    const char* name;
    int64_t experts, total, active;
  };
  for (const Case& want : {Case{"nano3-5l-32e", 32, 1484206272, 965357760},
                           Case{"nano3-5l-128e", 128, 3400470912, 965874048}}) {
    const ModelConfig c =
        read_model_config(testing::source_dir() / "configs" / "parents" / want.name);
    ModelConfig nano = nano3();
    nano.pattern = "M*EME";
    nano.experts = want.experts;
    EXPECT_EQ(parameter_cost(c).total, parameter_cost(nano).total) << want.name;
    EXPECT_EQ(parameter_cost(c).total, want.total) << want.name;
    EXPECT_EQ(parameter_cost(c).active, want.active) << want.name;
  }
}

TEST(Cost, ForwardFlopsOfATokenAreTwoAParameterAttentionAndTheRecurrence) {
  const ModelConfig c = nano3();
  const double weights = 2.0 * static_cast<double>(parameter_cost(c).active - c.vocab * c.hidden);
  const double attention = 6 * 2.0 * 8192 * 32 * 128;  // six layers
  const double recurrence = 23 * 5.0 * 64 * 64 * 128;
  EXPECT_EQ(forward_flops(c, full_widths(c), 8192), weights + attention + recurrence);
  Widths half = full_widths(c);
  half.hidden = c.hidden / 2;
  for (LayerWidths& l : half.layers) l.mamba_heads /= 2;
  EXPECT_EQ(forward_flops(c, half, 0),
            2.0 * static_cast<double>(parameter_cost(c, half).active - c.vocab * c.hidden / 2) +
                recurrence / 2);
  Widths shallow = full_widths(c);
  width_of(shallow, 5, Axis::kLayers) = 0;  // of attention
  width_of(shallow, 0, Axis::kLayers) = 0;  // of Mamba
  EXPECT_EQ(forward_flops(c, shallow, 8192),
            2.0 * static_cast<double>(parameter_cost(c, shallow).active - c.vocab * c.hidden) +
                attention / 6 * 5 + recurrence / 23 * 22);
  ModelConfig tied = c;  // what is looked up is multiplied too, as the head
  tied.tied = true;
  EXPECT_EQ(forward_flops(tied, full_widths(tied), 0),
            2.0 * static_cast<double>(parameter_cost(tied).active) + recurrence);
}

TEST(ParameterList, HasThePublishedNumberOfTensors) {
  std::set<std::string> names;
  for (const ParameterSpec& spec : parameter_list(nano3())) {
    const int64_t experts = spec.stacked() ? spec.dims[0].extent : 1;
    for (int64_t e = 0; e < experts; ++e) names.insert(spec.published_of(e));
  }
  EXPECT_EQ(names.size(), 6243u);
}

TEST(ParameterList, PartsOfAPublishedTensorCoverItOnce) {
  std::map<std::string, std::vector<const ParameterSpec*>> parts;
  const auto list = parameter_list(nano3());
  for (const ParameterSpec& spec : list)
    if (!spec.stacked()) parts[spec.published].push_back(&spec);
  for (const auto& [name, specs] : parts) {
    int64_t total = 1;
    for (int64_t n : specs.front()->published_shape) total *= n;
    int64_t covered = 0;
    for (const ParameterSpec* spec : specs) covered += spec->size();
    EXPECT_EQ(covered, total) << name;
  }
}

}  // namespace
}  // namespace nestling
