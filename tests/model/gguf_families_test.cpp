// GGUF files of llama, qwen3, qwen3moe and granitehybrid: what is written comes back bit for bit, rows
// of heads lie as llama.cpp turns them, and what it cannot be told or is not done here is refused.
#include <functional>
#include <gtest/gtest.h>

#include "model/gguf_rope.h"
#include "tests/support/expect_error.h"
#include "tests/support/family_models.h"
#include "tests/support/gguf_parts.h"
#include "tests/support/gguf_reader.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

ModelConfig qwen3_config() {
  ModelConfig c = gated_config(Family::kQwen3, "*-*-*-");
  c.rotary = c.head_dim;
  c.rope_theta = 1e6;
  c.eps = 1e-6f;
  c.validate("qwen3");
  return c;
}

ModelConfig experts_config() {
  ModelConfig c = qwen3_moe_config();
  c.pattern = "*E*E";
  c.ffn = 0;
  c.validate("qwen3moe");
  return c;
}

// Mamba layers twice as wide as the hidden state, as llama.cpp asks.
ModelConfig hybrid_config(const std::string& pattern = "ME*EME") {
  ModelConfig c = granite_config();
  c.pattern = pattern;
  c.mamba_heads = 8;
  c.groups = 2;
  if (c.has(LayerKind::kDense)) {
    c.experts = c.top_k = c.expert_ffn = c.shared_ffn = 0;
    c.ffn = 48;
  }
  c.validate("granite");
  return c;
}

TEST(GgufFamilies, ConfigsAndWeightsComeBack) {
  std::vector<ModelConfig> configs = {llama_config(), qwen3_config(), experts_config(),
                                      hybrid_config(), hybrid_config("M-*-")};
  configs.push_back(llama_config());
  configs.back().rope_scaling = {};
  configs.back().tied = false;
  configs.back().max_positions = 8192;
  configs.push_back(hybrid_config("*-M-"));
  configs.back().rotary = configs.back().head_dim;
  configs.back().conv_bias = false;
  for (const ModelConfig& config : configs) {
    const Weights weights = weights_of(config);
    const ReadModel got = round_trip(config, weights, GgmlType::kF32);
    EXPECT_EQ(text_of(got.config), text_of(config));
    expect_same(got.weights, weights, false);
  }
}

const ParameterSpec& spec_named(const Weights& weights, const std::string& name, int64_t& index) {
  for (index = 0; index < weights.count(); ++index)
    if (weights.specs()[static_cast<size_t>(index)].name == name)
      return weights.specs()[static_cast<size_t>(index)];
  throw Error("no " + name);
}

// llama.cpp's converter: reshape(heads, 2, h / 2, D).swapaxes(1, 2). Keys are in published order here.
void expect_rows(const ModelConfig& config, bool pairs) {
  const Weights weights = weights_of(config);
  const TempDir dir;
  const GgufParts parts = parts_of(config, weights);
  write_gguf(dir.path() / "m.gguf", parts.keys, parts.tensors);
  const std::vector<double> got =
      gguf_values(read_gguf(dir.path() / "m.gguf").at("blk.0.attn_k.weight"));
  int64_t index = 0;
  spec_named(weights, "model.layers.0.self_attn.k_proj.weight", index);
  const float* k = weights.master(index).ptr<float>();
  const int64_t h = config.head_dim, cols = config.hidden;
  for (int64_t head = 0; head < config.kv_heads; ++head)
    for (int64_t i = 0; i < h / 2; ++i)
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t published = head * h + half * (h / 2) + i;
        const int64_t row = pairs ? head * h + 2 * i + half : published;
        for (int64_t c = 0; c < cols; ++c)
          ASSERT_EQ(got[static_cast<size_t>(row * cols + c)], k[published * cols + c]) << row;
      }
}

TEST(GgufFamilies, RowsOfHeadsLieAsTheyAreTurned) {
  expect_rows(llama_config(), true);
  expect_rows(qwen3_config(), false);
  expect_rows(hybrid_config("*-M-"), true);
}

// Gate and up are one published tensor of Granite and two of GGUF, of the widths of each.
TEST(GgufFamilies, GateAndUpOfGraniteAreTensorsOfTheirOwn) {
  const ModelConfig config = hybrid_config();
  const Weights weights = weights_of(config);
  const TempDir dir;
  const GgufParts parts = parts_of(config, weights);
  write_gguf(dir.path() / "m.gguf", parts.keys, parts.tensors);
  const ReadGguf file = read_gguf(dir.path() / "m.gguf");
  for (const char* part : {"gate", "up"}) {
    int64_t index = 0;
    spec_named(weights, str("model.layers.1.block_sparse_moe.input_linear.weight/", part), index);
    const ConstView want = weights.master(index);
    const auto got = gguf_values(file.at(str("blk.1.ffn_", part, "_exps.weight")));
    ASSERT_EQ(std::ssize(got), want.size());
    for (int64_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(got[static_cast<size_t>(i)], want.ptr<float>()[i]) << part;
  }
}

TEST(GgufFamilies, ScalingOfPositionsIsRecoveredFromItsFactors) {
  const RopeScaling published = {
      .factor = 32, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_positions = 8192};
  const auto factors = gguf_rope_factors(64, 500000, published);
  const auto found = rope_scaling_of(factors, 500000);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->factor, 32);
  EXPECT_EQ(found->high_freq_factor, 4);
  EXPECT_EQ(found->original_max_positions, 8192);
  // The same positions in other words.
  const auto same = rope_scaling_of(gguf_rope_factors(64, 500000,
                                                      {.factor = 32,
                                                       .low_freq_factor = 2,
                                                       .high_freq_factor = 8,
                                                       .original_max_positions = 16384}),
                                    500000);
  ASSERT_TRUE(same);
  EXPECT_EQ(rope_inverse_frequencies(64, 500000, *same),
            rope_inverse_frequencies(64, 500000, published));
  EXPECT_EQ(rope_scaling_of(std::vector<float>(32, 1.0f), 500000)->original_max_positions, 0);
  std::vector<float> other = factors;
  other[14] *= 1.01f;
  EXPECT_FALSE(rope_scaling_of(other, 500000));
  EXPECT_FALSE(rope_scaling_of(std::vector<float>(32, 4.0f), 500000));  // linear scaling
}

// As llama.cpp, where a file leaves out what has a default.
TEST(GgufFamilies, KeysThatMayBeAbsent) {
  ModelConfig config = llama_config();
  config.rope_scaling = {};
  config.head_dim = config.rotary = 16;
  config.query_heads = config.kv_heads = 2;
  const Weights weights = weights_of(config);
  GgufParts parts = parts_of(config, weights);
  for (const char* key : {"attention.head_count_kv", "attention.key_length",
                          "attention.value_length", "rope.dimension_count", "rope.freq_base"})
    parts.drop_key(std::string("llama.") + key);
  parts.keys.push_back({"llama.rope.scaling.type", std::string("none")});
  const TempDir dir;
  write_gguf(dir.path() / "m.gguf", parts.keys, parts.tensors);
  const ReadModel got = read_back(dir.path() / "m.gguf");
  EXPECT_EQ(text_of(got.config), text_of(config));
  expect_same(got.weights, weights, false);
}

void read_refused(const ModelConfig& config, const std::function<void(GgufParts&)>& change,
                  std::initializer_list<const char*> parts) {
  const TempDir dir;
  const Weights weights = weights_of(config);
  GgufParts given = parts_of(config, weights);
  change(given);
  write_gguf(dir.path() / "m.gguf", given.keys, given.tensors);
  expect_error([&] { read_back(dir.path() / "m.gguf"); }, parts);
}
std::function<void(GgufParts&)> with(const std::string& key, GgufValue value) {
  return [=](GgufParts& p) {
    p.drop_key(key);
    p.keys.push_back({key, value});
  };
}

TEST(GgufFamilies, WhatIsNotDoneHereIsRefusedByItsKey) {
  const ModelConfig llama = llama_config(), experts = experts_config();
  read_refused(llama, with("llama.rope.scaling.type", std::string("yarn")),
               {"key llama.rope.scaling.type is 'yarn'"});
  read_refused(llama,
               [](GgufParts& p) {
                 p.keys.push_back({"llama.rope.scaling.type", std::string("linear")});
                 p.keys.push_back({"llama.rope.scaling.factor", 2.0f});
               },
               {"key llama.rope.scaling.factor is 2, needs 1"});
  read_refused(llama, with("llama.rope.scaling.attn_factor", 0.5f), {"attn_factor is 0.5"});
  read_refused(llama, with("llama.rope.dimension_count", uint32_t{4}),
               {"rope.dimension_count is not attention.key_length"});
  read_refused(llama, with("llama.attention.value_length", uint32_t{4}), {"value_length is 4"});
  read_refused(llama, with("llama.attention.causal", false), {"key llama.attention.causal"});
  read_refused(llama, with("llama.expert_count", uint32_t{8}),
               {"key llama.expert_count is 8: experts of this architecture"});
  read_refused(experts, with("qwen3moe.expert_gating_func", uint32_t{2}), {"needs 1 (softmax)"});
  read_refused(experts, with("qwen3moe.expert_shared_feed_forward_length", uint32_t{8}),
               {"a shared expert is not supported"});
  read_refused(llama,
               [](GgufParts& p) {
                 p.tensor("rope_freqs.weight").produce = [](const ByteSink& sink) {
                   const float factors[] = {1, 3, 5, 7};
                   sink(std::as_bytes(std::span(factors)));
                 };
               },
               {"tensor rope_freqs.weight F32 [4]: no scaling of positions as Llama 3's"});
  read_refused(llama, [](GgufParts& p) { p.drop_tensor("blk.1.ffn_gate.weight"); },
               {"tensor blk.1.ffn_gate.weight is missing"});
}

TEST(GgufFamilies, WhatLlamaCppCannotBeToldIsRefused) {
  const auto refused = [](ModelConfig config, const std::function<void(ModelConfig&)>& change,
                          const char* part) {
    change(config);
    expect_error([&] { check_gguf_config(config, "m"); }, {"m: llama.cpp runs no ", part});
  };
  refused(
      qwen3_moe_config(), [](ModelConfig&) {}, "attention and its feed-forward in turn");
  refused(
      experts_config(), [](ModelConfig& c) { c.gate.renormalize = false; },
      "not brought to a sum of 1");
  refused(
      llama_config(), [](ModelConfig& c) { c.rotary = 4; }, "turns a part of a head");
  refused(
      granite_config(), [](ModelConfig& c) { c.mamba_heads = 6; },
      "not twice as wide as its hidden state");
  refused(
      hybrid_config(), [](ModelConfig& c) { c.pattern = "MEME"; }, "without an attention layer");
  refused(
      hybrid_config(), [](ModelConfig& c) { c.pattern = "ME*-"; }, "both dense and expert layers");
  ModelConfig scaled = qwen3_config();
  scaled.rope_scaling = llama_config().rope_scaling;
  refused(
      scaled, [](ModelConfig&) {}, "qwen3 with Llama 3's scaled positions");
}

}  // namespace
}  // namespace nestling
