#include <array>

#include "model/config_json.h"
#include "model/huggingface.h"
#include "model/huggingface_families.h"

namespace nestling {

namespace {

struct ModelType {
  const char* name;
  Family family;
};
constexpr std::array kModelTypes = {
    ModelType{"nemotron_h", Family::kNemotronH},
    ModelType{"llama", Family::kLlama},
    ModelType{"qwen3", Family::kQwen3},
    ModelType{"qwen3_moe", Family::kQwen3Moe},
    ModelType{"granitemoehybrid", Family::kGraniteHybrid},
};

Family family_of(JsonRef root) {
  const std::string& type = root.at("model_type").string();
  std::string known;
  for (const ModelType& m : kModelTypes) {
    if (type == m.name) return m.family;
    known += std::string(known.empty() ? "" : ", ") + m.name;
  }
  root.fail(str("model_type '", type, "' is not supported; there are ", known));
}

ModelConfig read_family(JsonRef root, Family family) {
  switch (family) {
    case Family::kNemotronH:
      return read_nemotron_config(root);
    case Family::kLlama:
    case Family::kQwen3:
    case Family::kQwen3Moe:
      return read_llama_config(root, family);
    case Family::kGraniteHybrid:
      return read_granite_config(root);
  }
  throw Error("a family that has no config");
}

}  // namespace

const char* model_type(Family family) {
  for (const ModelType& m : kModelTypes)
    if (m.family == family) return m.name;
  throw Error("a family that has no model type");
}

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "config.json";
  NESTLING_CHECK_INPUT(std::filesystem::exists(file), file.string(),
                       ": not found; a model is a directory with config.json and safetensors");
  const JsonDocument document = read_json(file, kHuggingFaceJson);
  return parse_model_config(document.root(), file.string());
}

ModelConfig parse_model_config(JsonRef root, const std::string& where) {
  using namespace config_json;  // NOLINT(google-build-using-namespace): it reads one
  const Family family = family_of(root);
  ModelConfig c = read_family(root, family);
  c.family = family;
  c.vocab = need(root, {"vocab_size"});
  c.hidden = need(root, {"hidden_size"});
  c.tied = flag_or(root, {"tie_word_embeddings"}, false);
  c.max_positions = integer_or(root, {"max_position_embeddings"}, 0);
  read_tokens(root, c);
  c.validate(where);
  return c;
}

Json model_config_json(const ModelConfig& c, StoredType type) {
  switch (c.family) {
    case Family::kNemotronH:
      return nemotron_config_json(c, type);
    case Family::kLlama:
    case Family::kQwen3:
    case Family::kQwen3Moe:
      return llama_config_json(c, type);
    case Family::kGraniteHybrid:
      return granite_config_json(c, type);
  }
  throw Error("a family that has no config");
}

}  // namespace nestling
