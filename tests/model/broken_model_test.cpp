// Broken model directories: one clear error of kind kInput naming file and tensor, never a crash.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "data/safetensors_writer.h"
#include "model/huggingface.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

fs::path good() {
  return testing::source_dir() / "tests/golden/moe_nano";
}

Json good_config() {
  return Json::parse(testing::read_bytes(good() / "config.json"));
}

// What opening the directory says; "" if it opens.
std::string open_error(const fs::path& dir) {
  try {
    const ModelConfig config = read_weights_config(dir);
    Weights weights(config, Device::kCpu, {});
    import_weights(dir, config, weights);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    return e.what();
  }
}

// The good model with one thing changed.
struct Case {
  TempDir dir;
  Case() { fs::copy(good() / "model.safetensors", dir.path() / "model.safetensors"); }
  std::string with_config(const Json& config) {
    dir.write("config.json", config.dump());
    return open_error(dir.path());
  }
};

// The good tensors through `change`, which may drop, add or alter some.
using Tensors = std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>>;
std::string with_tensors(const std::function<void(Tensors&)>& change) {
  Tensors tensors;
  const SafetensorsFile file(good() / "model.safetensors");
  for (const StoredTensor& t : file.tensors()) {
    std::vector<float> values(static_cast<size_t>(t.size()));
    std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
    tensors[t.name] = {t.shape, values};
  }
  change(tensors);
  TempDir dir;
  fs::copy(good() / "config.json", dir.path() / "config.json");
  std::vector<TensorToStore> out;
  for (const auto& [name, tensor] : tensors)
    out.push_back({.name = name,
                   .type = StoredType::kF32,
                   .shape = tensor.first,
                   .produce = [&values = tensor.second](const ByteSink& sink) {
                     sink(std::as_bytes(std::span(values)));
                   }});
  write_safetensors(dir.path() / "model.safetensors", std::move(out));
  return open_error(dir.path());
}

#define EXPECT_SAYS(said, ...)                                           \
  do {                                                                   \
    const std::string text = (said);                                     \
    for (const char* part : {__VA_ARGS__})                               \
      EXPECT_NE(text.find(part), std::string::npos) << "said: " << text; \
  } while (false)

TEST(BrokenModel, TheGoodOneOpens) {
  Case c;
  EXPECT_EQ(c.with_config(good_config()), "");
  EXPECT_EQ(with_tensors([](Tensors&) {}), "");
}

TEST(BrokenModel, MissingTensorIsNamed) {
  EXPECT_SAYS(with_tensors([](Tensors& t) { t.erase("backbone.layers.2.mixer.k_proj.weight"); }),
              "backbone.layers.2.mixer.k_proj.weight", "missing");
}

TEST(BrokenModel, ExtraTensorIsNamed) {
  EXPECT_SAYS(with_tensors([](Tensors& t) {
                t["backbone.layers.9.norm.weight"] = {{2}, {1, 2}};
              }),
              "backbone.layers.9.norm.weight", "no layer");
}

TEST(BrokenModel, WrongShapeIsNamed) {
  EXPECT_SAYS(with_tensors([](Tensors& t) {
                auto& norm = t["backbone.norm_f.weight"];
                norm.first = {norm.first[0] - 1};
                norm.second.pop_back();
              }),
              "backbone.norm_f.weight", "[26]", "[27]");
}

TEST(BrokenModel, NanIsNamed) {
  EXPECT_SAYS(with_tensors([](Tensors& t) {
                t["lm_head.weight"].second[5] = std::numeric_limits<float>::quiet_NaN();
              }),
              "lm_head.weight", "element 5", "nan");
}

TEST(BrokenModel, ConfigOutOfRangeIsNamed) {
  Case c;
  for (const auto& [key, value] :
       std::map<std::string, Json>{{"hidden_size", -4},
                                   {"hidden_size", 1e300},
                                   {"vocab_size", int64_t{1} << 40},
                                   {"num_attention_heads", 7},
                                   {"num_hidden_layers", 1'000'000'000},
                                   {"n_routed_experts", int64_t{1} << 40},
                                   {"routed_scaling_factor", 1e300},
                                   {"num_experts_per_tok", 9},
                                   {"n_groups", 3},
                                   {"layer_norm_epsilon", 0},
                                   {"mamba_num_heads", "many"},
                                   {"num_hidden_layers", 5},
                                   {"hybrid_override_pattern", "ME*X"},
                                   {"mlp_hidden_act", "gelu"},
                                   {"use_bias", true},
                                   {"time_step_limit", Json::array({0.01, 0.1})},
                                   {"model_type", "gpt2"}}) {
    Json config = good_config();
    config[key] = value;
    const std::string said = c.with_config(config);
    EXPECT_NE(said.find("config.json"), std::string::npos) << key << ": " << said;
  }
}

// Within the limits of each key, and beyond what any machine holds: nothing is allocated first.
TEST(BrokenModel, SizesThatTheWeightsDoNotHaveAreNamed) {
  Case c;
  for (const auto& [key, tensor] : std::map<std::string, const char*>{
           {"hidden_size", "backbone.embeddings.weight"},
           {"vocab_size", "backbone.embeddings.weight"},
           {"moe_intermediate_size", "backbone.layers.1.mixer.experts.0.up_proj.weight"},
           {"moe_shared_expert_intermediate_size",
            "backbone.layers.1.mixer.shared_experts.up_proj.weight"}}) {
    Json config = good_config();
    config[key] = 1 << 24;
    EXPECT_SAYS(c.with_config(config), "model.safetensors", tensor, "16777216");
  }
}

TEST(BrokenModel, MoreParametersThanCanBeCountedAreRefused) {
  Case c;
  Json config = good_config();
  config["hidden_size"] = config["moe_intermediate_size"] = 1 << 24;
  config["n_routed_experts"] = 1 << 16;
  EXPECT_SAYS(c.with_config(config), "config.json", "experts.{e}.up_proj.weight",
              "[65536,16777216,16777216]", "1125899906842624");
}

TEST(BrokenModel, MissingKeysAreNamed) {
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "mamba_num_heads", "head_dim",
                          "n_routed_experts", "hybrid_override_pattern", "ssm_state_size"}) {
    Case c;
    Json config = good_config();
    config.erase(key);
    EXPECT_SAYS(c.with_config(config), "config.json", key);
  }
}

TEST(BrokenModel, TruncatedWeightsAreNamed) {
  const std::string bytes = testing::read_bytes(good() / "model.safetensors");
  for (size_t keep : {size_t{0}, size_t{7}, size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    TempDir dir;
    fs::copy(good() / "config.json", dir.path() / "config.json");
    dir.write("model.safetensors", bytes.substr(0, keep));
    EXPECT_SAYS(open_error(dir.path()), "model.safetensors");
  }
}

}  // namespace
}  // namespace nestling
