#include "model/cost.h"

#include <gtest/gtest.h>
#include <map>
#include <set>

#include "model/parameters.h"

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
