#include "model/config_json.h"
#include "model/family.h"
#include "model/huggingface.h"
#include "model/huggingface_families.h"

namespace nestling {

namespace {

Family family_of(JsonRef root) {
  try {
    return parse_family(root.at("model_type").string());
  } catch (const Error& e) {
    root.fail(e.what());
  }
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
