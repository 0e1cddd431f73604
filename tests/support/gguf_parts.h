// gguf_parts.h - models of random weights as GGUF files whose keys and tensors may be changed before
// they are written, and read back.
#pragma once
#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/json.h"
#include "kernels/core/rng.h"
#include "model/gguf.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"
#include "tests/support/temp_dir.h"

namespace nestling::testing {

// Fresh weights, every one of them something else: norms and biases too.
inline Weights weights_of(const ModelConfig& config, bool bf16 = false) {
  Weights weights(config, Device::kCpu, {});
  weights.initialize(3);
  Rng rng(5);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const View w = weights.master(i);
    for (int64_t k = 0; k < w.size(); ++k) {
      float& x = w.ptr<float>()[k];
      x += 0.01f * static_cast<float>(rng.normal());
      if (bf16) x = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000u);
    }
  }
  return weights;
}

// What is written of a model, to be changed before it is.
struct GgufParts {
  std::vector<GgufKey> keys;
  std::vector<GgufTensor> tensors;

  GgufKey& key(const std::string& name) {
    for (GgufKey& k : keys)
      if (k.name == name) return k;
    throw Error("no key " + name);
  }
  GgufTensor& tensor(const std::string& name) {
    for (GgufTensor& t : tensors)
      if (t.name == name) return t;
    throw Error("no tensor " + name);
  }
  void drop_key(const std::string& name) {
    std::erase_if(keys, [&](const GgufKey& k) { return k.name == name; });
  }
  void drop_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const GgufTensor& t) { return t.name == name; });
  }
};
inline GgufParts parts_of(const ModelConfig& config, const Weights& weights,
                          GgmlType type = GgmlType::kF32) {
  GgufParts parts{.keys = {{"general.architecture", gguf_architecture(config)}},
                  .tensors = gguf_tensors(config, weights, type, "here")};
  for (GgufKey& k : gguf_model_keys(config)) parts.keys.push_back(std::move(k));
  return parts;
}

struct ReadModel {
  ModelConfig config;
  Weights weights;
};
inline ReadModel read_back(const std::filesystem::path& path) {
  const GgufFile file(path);
  const ModelConfig config = read_gguf_config(file);
  Weights weights(config, Device::kCpu, {.quantization = read_gguf_quantization(file, config)});
  import_gguf_weights(file, config, weights);
  return {config, std::move(weights)};
}
inline ReadModel round_trip(const ModelConfig& config, const Weights& weights, GgmlType type) {
  const TempDir dir;
  const auto path = dir.path() / "m.gguf";
  const GgufParts parts = parts_of(config, weights, type);
  write_gguf(path, parts.keys, parts.tensors);
  return read_back(path);
}

inline std::string text_of(const ModelConfig& config) {
  return dump_json(model_config_json(config, StoredType::kF32)) + str(config.max_positions);
}

// Bit for bit, but A_log, of which -exp is.
inline void expect_same(const Weights& got, const Weights& want, bool a_log_too) {
  ASSERT_EQ(got.count(), want.count());
  for (int64_t i = 0; i < got.count(); ++i) {
    const ParameterSpec& spec = want.specs()[static_cast<size_t>(i)];
    const ConstView a = got.master(i), b = want.master(i);
    ASSERT_EQ(a.size(), b.size()) << spec.name;
    for (int64_t k = 0; k < a.size(); ++k) {
      float x = a.ptr<float>()[k], y = b.ptr<float>()[k];
      if (spec.init == Init::kALog && !a_log_too) x = -std::exp(x), y = -std::exp(y);
      ASSERT_EQ(std::bit_cast<uint32_t>(x), std::bit_cast<uint32_t>(y)) << spec.name << " " << k;
    }
  }
}

}  // namespace nestling::testing
