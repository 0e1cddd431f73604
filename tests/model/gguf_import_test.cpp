// What is written as GGUF is read back: config, weights bit for bit, codes and their scales; and
// what is missing, damaged or not of these architectures is refused by key or tensor.
#include "model/gguf_import.h"

#include <bit>
#include <cmath>
#include <functional>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/gguf.h"
#include "model/gguf_names.h"
#include "model/huggingface.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_parts.h"
#include "tests/support/gguf_reader.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

ModelConfig config_of(const std::string& pattern) {
  ModelConfig c = tiny_config(48);
  c.pattern = pattern;
  if (!c.has(LayerKind::kDense)) c.ffn = 0;
  if (!c.has(LayerKind::kMoe)) c.experts = c.top_k = c.expert_ffn = c.shared_ffn = 0;
  c.eos = {};
  c.expert_ffn *= 2;  // whole blocks of Q8_0
  c.shared_ffn *= 2;
  c.ffn = c.ffn > 0 ? 64 : 0;
  c.validate("here");
  return c;
}

TEST(GgufImport, ConfigsAndWeightsComeBack) {
  for (const char* pattern : {"ME*", "M-*M", "MEM*EME"}) {
    const ModelConfig config = config_of(pattern);
    const Weights weights = weights_of(config);
    const ReadModel got = round_trip(config, weights, GgmlType::kF32);
    EXPECT_EQ(text_of(got.config), text_of(config)) << pattern;
    expect_same(got.weights, weights, false);
  }
}

TEST(GgufImport, OtherFormsOfAModelComeBack) {
  const std::pair<const char*, std::function<void(ModelConfig&)>> forms[] = {
      {"tied", [](ModelConfig& c) { c.tied = true; }},
      {"no bias", [](ModelConfig& c) { c.conv_bias = false; }},
      {"positions", [](ModelConfig& c) { c.max_positions = 4096; }},
      {"eps", [](ModelConfig& c) { c.eps = 1e-6f; }},
      {"chunk", [](ModelConfig& c) { c.chunk = 16; }},
      {"gate",
       [](ModelConfig& c) {
         c.gate.renormalize = false;
         c.gate.scale = 2.5f;
       }},
      {"groups", [](ModelConfig& c) {
         c.gate.groups = 3;
         c.gate.top_groups = 2;
       }}};
  for (const auto& [name, change] : forms) {
    ModelConfig config = config_of("ME*");
    change(config);
    const Weights weights = weights_of(config);
    const ReadModel got = round_trip(config, weights, GgmlType::kF32);
    EXPECT_EQ(text_of(got.config), text_of(config)) << name;
    expect_same(got.weights, weights, false);
  }
  ModelConfig all = config_of("ME*");  // groups of which none is left out are none
  all.gate.groups = all.gate.top_groups = 3;
  EXPECT_EQ(round_trip(all, weights_of(all), GgmlType::kF32).config.gate.groups, 1);
}

// Of weights that are bf16 every bit, A_log's too.
TEST(GgufImport, WeightsInBf16ComeBackToTheLastBit) {
  const ModelConfig config = config_of("MEM*");
  const Weights weights = weights_of(config, true);
  expect_same(round_trip(config, weights, GgmlType::kBF16).weights, weights, true);
}

TEST(GgufImport, OtherTypesAreTheNumbersTheyStandFor) {
  const ModelConfig config = config_of("MEM*");
  const Weights weights = weights_of(config);
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8}) {
    const TempDir dir;
    const auto stored = dir.path() / "stored.gguf", again = dir.path() / "again.gguf";
    GgufParts parts = parts_of(config, weights, type);
    write_gguf(stored, parts.keys, parts.tensors);
    const ReadModel got = read_back(stored);
    parts = parts_of(config, got.weights, GgmlType::kF32);
    write_gguf(again, parts.keys, parts.tensors);
    const testing::ReadGguf want = testing::read_gguf(stored), have = testing::read_gguf(again);
    ASSERT_EQ(want.tensors.size(), have.tensors.size());
    for (const testing::ReadGgufTensor& t : want.tensors)
      EXPECT_EQ(testing::gguf_values(t), testing::gguf_values(have.at(t.name)))
          << ggml_type_name(type) << " " << t.name;
  }
}

ModelConfig coded_config(const std::string& pattern) {
  ModelConfig c = testing::quantizable_config(pattern);
  c.hidden = c.expert_ffn = c.shared_ffn = c.ffn = 128;
  if (!c.has(LayerKind::kDense)) c.ffn = 0;
  c.validate("coded");
  return c;
}

TEST(GgufImport, CodesOfNvfp4StayCodes) {
  const ModelConfig config = coded_config("MEM*E");
  Weights weights = testing::quantized(config, WeightFormat::kNvfp4);
  ReadModel got = round_trip(config, weights, GgmlType::kNvfp4);
  ASSERT_TRUE(got.weights.quantization());
  int64_t codes = 0;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const std::string& name = weights.specs()[static_cast<size_t>(i)].name;
    const auto at = static_cast<size_t>(i);
    ASSERT_EQ(static_cast<bool>(got.weights.codes(i)), static_cast<bool>(weights.codes(i))) << name;
    if (!weights.codes(i)) continue;
    testing::expect_same_weight(weights.weight(i), got.weights.weight(i), name);
    EXPECT_EQ(*got.weights.quantization()->parameters[at], *weights.quantization()->parameters[at])
        << name;
    ++codes;
  }
  EXPECT_GT(codes, 8);
}

TEST(GgufImport, OfSeveralInputScalesTheLargestIsTaken) {
  const ModelConfig config = coded_config("MEM*E");
  const Weights weights = testing::quantized(config, WeightFormat::kNvfp4);
  GgufParts parts = parts_of(config, weights, GgmlType::kNvfp4);
  parts.tensor("blk.4.ffn_up_exps.input_scale").produce = [](const ByteSink& sink) {
    const float scales[] = {0.25f, 0.5f, 2, 1, 1, 1};
    sink(std::as_bytes(std::span(scales)));
  };
  const TempDir dir;
  write_gguf(dir.path() / "m.gguf", parts.keys, parts.tensors);
  const ReadModel got = read_back(dir.path() / "m.gguf");
  int found = 0;
  for (int64_t i = 0; i < got.weights.count(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (place_in_gguf(got.config, got.weights.specs()[at]).name != "blk.4.ffn_up_exps.weight")
      continue;
    EXPECT_EQ(got.weights.quantization()->parameters[at]->input, 2);
    ++found;
  }
  EXPECT_EQ(found, 1);
}

TEST(GgufImport, KeysOfOtherWritersAreReadToo) {
  const ModelConfig config = config_of("ME*");
  const Weights weights = weights_of(config);
  GgufParts parts = parts_of(config, weights);
  const std::string arch = "nemotron_h_moe.";
  parts.key(arch + "attention.head_count").value = std::vector<int32_t>{0, 0, 4};
  parts.key(arch + "expert_used_count").value = std::vector<int32_t>{0, 2, 0};
  parts.drop_key(arch + "attention.layer_norm_rms_epsilon");
  parts.drop_key(arch + "vocab_size");
  parts.drop_key("nestling.chunk_size");
  parts.keys.push_back({arch + "expert_group_count", uint32_t{1}});
  parts.keys.push_back({arch + "expert_gating_func", uint32_t{2}});
  parts.keys.push_back({"tokenizer.ggml.tokens", std::vector<std::string>(48, "x")});
  parts.keys.push_back({"tokenizer.ggml.bos_token_id", uint32_t{1}});
  parts.keys.push_back({"tokenizer.ggml.eos_token_id", uint32_t{2}});
  parts.keys.push_back({"tokenizer.ggml.eot_token_id", uint32_t{5}});
  parts.keys.push_back({"tokenizer.ggml.eom_token_id", uint32_t{2}});
  parts.keys.push_back({"tokenizer.ggml.padding_token_id", uint32_t{3}});
  const TempDir dir;
  write_gguf(dir.path() / "m.gguf", parts.keys, parts.tensors);
  ModelConfig want = config;
  want.chunk = 128;
  want.bos = 1;
  want.eos = {2, 5};
  want.pad = 3;
  const ReadModel got = read_back(dir.path() / "m.gguf");
  EXPECT_EQ(text_of(got.config), text_of(want));
  expect_same(got.weights, weights, false);
}

class GgufRefused : public ::testing::Test {
 protected:
  using Change = std::function<void(GgufParts&)>;
  void refused(const Change& change, std::initializer_list<const char*> parts) {
    const GgufParts given = changed(change);
    write_gguf(dir_.path() / "m.gguf", given.keys, given.tensors);
    expect_error([&] { read_back(dir_.path() / "m.gguf"); }, {"m.gguf: "});
    expect_error([&] { read_back(dir_.path() / "m.gguf"); }, parts);
  }
  GgufParts changed(const Change& change) {
    GgufParts parts = parts_of(config_, weights_, type_);
    change(parts);
    return parts;
  }
  static Change value(const std::string& key, GgufValue to) {
    return [=](GgufParts& p) {
      const std::string name = "nemotron_h_moe." + key;
      p.drop_key(name);
      p.keys.push_back({name, to});
    };
  }
  static GgufTensor numbers(const std::string& name, std::vector<int64_t> shape, float x) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    return {.name = name,
            .type = GgmlType::kF32,
            .shape = std::move(shape),
            .produce = [values = std::vector<float>(static_cast<size_t>(count), x)](
                           const ByteSink& sink) { sink(std::as_bytes(std::span(values))); }};
  }
  void use_codes() {
    config_ = coded_config("MEM*E");
    weights_ = testing::quantized(config_, WeightFormat::kNvfp4);
    type_ = GgmlType::kNvfp4;
  }
  TempDir dir_;
  ModelConfig config_ = config_of("ME*");
  Weights weights_ = weights_of(config_);
  GgmlType type_ = GgmlType::kF32;
};

TEST_F(GgufRefused, OtherArchitecturesAndSettings) {
  refused([](GgufParts& p) { p.key("general.architecture").value = std::string("gemma3"); },
          {"'gemma3', only 'nemotron_h', 'nemotron_h_moe', 'llama', 'qwen3', 'qwen3moe', "
           "'granitehybrid' are supported"});
  refused([](GgufParts& p) { p.drop_key("general.architecture"); },
          {"key general.architecture is missing"});
  refused(value("moe_latent_size", uint32_t{8}), {"latent experts are not supported"});
  refused(value("nextn_predict_layers", uint32_t{1}), {"multi-token prediction"});
  refused(value("expert_gating_func", uint32_t{1}),
          {"key nemotron_h_moe.expert_gating_func is 1, needs 2 (sigmoid)"});
  refused(
      [](GgufParts& p) {
        p.keys.push_back({"split.count", uint32_t{3}});
      },
      {"key split.count is 3", "llama-gguf-split --merge"});
}

TEST_F(GgufRefused, KeysThatAreMissingOrDoNotFit) {
  refused([](GgufParts& p) { p.drop_key("nemotron_h_moe.ssm.state_size"); },
          {"key nemotron_h_moe.ssm.state_size is missing"});
  refused(value("ssm.time_step_rank", uint32_t{5}), {"no multiple of ssm.time_step_rank"});
  refused(value("ssm.time_step_rank", uint32_t{0}), {"no multiple of ssm.time_step_rank"});
  refused(value("block_count", uint32_t{4}),
          {"key nemotron_h_moe.feed_forward_length has 3 items, block_count is 4"});
  refused(value("block_count", uint32_t{1u << 31}), {"block_count is not 1 to 4096"});
  refused(value("feed_forward_length", std::vector<int32_t>{0, 32, 32}),
          {"a layer has both heads and a feed-forward width"});
  refused(value("attention.head_count_kv", std::vector<int32_t>{1, 0, 2}),
          {"key nemotron_h_moe.attention.head_count_kv has 1 and 2"});
  refused(value("attention.value_length", uint32_t{16}),
          {"key nemotron_h_moe.attention.value_length is 16, needs 8"});
  refused(value("expert_group_count", uint32_t{3}),
          {"key nemotron_h_moe.expert_group_used_count is missing"});
  refused(value("attention.head_count", uint32_t{3}), {"num_attention_heads is 3, not a multiple"});
  refused(value("expert_weights_norm", 1.0f), {"expert_weights_norm is a number, needs a flag"});
}

TEST_F(GgufRefused, TensorsThatAreMissingExtraOrDoNotFit) {
  refused([](GgufParts& p) { p.drop_tensor("blk.0.ssm_a"); }, {"tensor blk.0.ssm_a is missing"});
  refused([](GgufParts& p) { p.tensors.push_back(numbers("blk.2.attn_q.bias", {32}, 1)); },
          {"tensor blk.2.attn_q.bias F32 [32]: belongs to no layer"});
  refused(
      [](GgufParts& p) { p.tensor("output_norm.weight") = numbers("output_norm.weight", {31}, 1); },
      {"tensor output_norm.weight F32 [31]: the keys ask for [32]"});
  refused(value("embedding_length", uint32_t{1u << 20}),
          {"tensor token_embd.weight F32 [48,32]: the keys ask for [48,1048576]"});
  refused(
      [](GgufParts& p) {
        p.tensor("blk.0.ssm_d") = numbers("blk.0.ssm_d", {4, 1}, INFINITY);
      },
      {"tensor blk.0.ssm_d F32 [4,1]: element 0 is inf"});
  refused(
      [](GgufParts& p) {
        p.tensor("blk.0.ssm_a") = numbers("blk.0.ssm_a", {4, 1}, 1);
      },
      {"tensor blk.0.ssm_a F32 [4,1]: element 0 is "});  // -exp is never above zero
}

TEST_F(GgufRefused, CodesThatNoProductTakes) {
  use_codes();
  refused([](GgufParts& p) { p.drop_tensor("blk.1.ffn_up_exps.scale"); },
          {"tensor blk.1.ffn_up_exps.scale is missing"});
  refused([](GgufParts& p) { p.drop_tensor("blk.1.ffn_up_exps.input_scale"); },
          {"tensor blk.1.ffn_up_exps.input_scale is missing"});
  refused(
      [](GgufParts& p) {
        p.tensor("blk.1.ffn_up_exps.scale") = numbers("blk.1.ffn_up_exps.scale", {6}, -1);
      },
      {"tensor blk.1.ffn_up_exps.weight"});
  refused(
      [](GgufParts& p) {
        GgufTensor& t = p.tensor("blk.3.attn_q.weight");
        t.type = GgmlType::kNvfp4;
        t.produce = [bytes = gguf_tensor_bytes(t)](const ByteSink& sink) {
          sink(std::vector<std::byte>(static_cast<size_t>(bytes)));
        };
      },
      {"tensor blk.3.attn_q.weight NVFP4", "no product here takes codes of it"});
  refused(
      [](GgufParts& p) {
        GgufTensor& t = p.tensor("blk.1.ffn_up_exps.weight");
        t.produce = [bytes = gguf_tensor_bytes(t)](const ByteSink& sink) {
          sink(std::vector<std::byte>(static_cast<size_t>(bytes), std::byte{0xff}));
        };
      },
      {"tensor blk.1.ffn_up_exps.weight NVFP4"});
}

TEST_F(GgufRefused, CodesWhereNumbersAreNeeded) {
  use_codes();
  const GgufParts parts = changed([](GgufParts&) {});
  write_gguf(dir_.path() / "m.gguf", parts.keys, parts.tensors);
  const GgufFile file(dir_.path() / "m.gguf");
  Weights weights(config_, Device::kCpu, {});
  expect_error([&] { import_gguf_weights(file, config_, weights); },
               {"tensor blk.0.ssm_in.weight NVFP4", "neither trained nor trained from"});
}

}  // namespace
}  // namespace nestling
