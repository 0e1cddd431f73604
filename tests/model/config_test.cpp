// config.json as it is written is read as the same config: every field away from its default.
#include "model/config.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/huggingface.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

ModelConfig odd() {
  ModelConfig c;
  c.pattern = "ME*-E";
  c.vocab = 77;
  c.hidden = 48;
  c.eps = 3e-6f;
  c.tied = true;
  c.query_heads = 6;
  c.kv_heads = 3;
  c.head_dim = 24;
  c.mamba_heads = 10;
  c.mamba_head_dim = 12;
  c.state = 20;
  c.groups = 5;
  c.conv_kernel = 3;
  c.conv_bias = false;
  c.chunk = 32;
  c.ffn = 56;
  c.experts = 8;
  c.top_k = 3;
  c.expert_ffn = 18;
  c.shared_ffn = 22;
  c.gate.groups = 4;
  c.gate.top_groups = 2;
  c.gate.renormalize = false;
  c.gate.scale = 2.25f;
  c.max_positions = 4096;
  c.bos = 5;
  c.pad = 6;
  c.eos = {7, 9};
  c.validate("odd");
  return c;
}

TEST(ModelConfigJson, WrittenIsWhatIsRead) {
  const ModelConfig c = odd();
  const testing::TempDir dir;
  write_json(dir.path() / "config.json", model_config_json(c, StoredType::kF32));
  const ModelConfig r = read_model_config(dir.path());
  EXPECT_EQ(r.pattern, c.pattern);
  EXPECT_EQ(r.eps, c.eps);
  EXPECT_EQ(r.tied, c.tied);
  EXPECT_EQ(r.conv_bias, c.conv_bias);
  EXPECT_EQ(r.eos, c.eos);
  EXPECT_EQ(r.gate.groups, c.gate.groups);
  EXPECT_EQ(r.gate.top_groups, c.gate.top_groups);
  EXPECT_EQ(r.gate.renormalize, c.gate.renormalize);
  EXPECT_EQ(r.gate.scale, c.gate.scale);
  using Field = int64_t ModelConfig::*;
  const Field fields[] = {
      &ModelConfig::vocab,       &ModelConfig::hidden,        &ModelConfig::query_heads,
      &ModelConfig::kv_heads,    &ModelConfig::head_dim,      &ModelConfig::mamba_heads,
      &ModelConfig::state,       &ModelConfig::groups,        &ModelConfig::mamba_head_dim,
      &ModelConfig::conv_kernel, &ModelConfig::chunk,         &ModelConfig::ffn,
      &ModelConfig::experts,     &ModelConfig::top_k,         &ModelConfig::expert_ffn,
      &ModelConfig::shared_ffn,  &ModelConfig::max_positions, &ModelConfig::bos,
      &ModelConfig::pad};
  for (size_t i = 0; i < std::size(fields); ++i)
    EXPECT_EQ(r.*fields[i], c.*fields[i]) << "field " << i;
}

}  // namespace
}  // namespace nestling
