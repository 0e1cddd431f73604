#include "runtime/parent.h"

#include <memory>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "data/model_files.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"
#include "model/published_numbers.h"
#include "runtime/gguf_tokenizer_files.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

constexpr const char* kLicenceKey = "general.license";

std::string digest_of_file(const fs::path& file) {
  return "crc32c:" + crc32c_hex(crc32c(MappedFile(file).bytes()));
}

}  // namespace

Parent::Parent(const fs::path& path, const std::string& key) : path_(path), gguf_(is_gguf(path)) {
  NESTLING_CHECK_INPUT(gguf_ || fs::is_directory(path), key, ": ", path.string(),
                       fs::exists(path)
                           ? ": a Hugging Face directory or a GGUF file is needed; `nestling "
                             "slice` makes a directory of an elastic .h5"
                           : ": not found");
}

ModelConfig Parent::architecture() const {
  return gguf_ ? read_gguf_config(GgufFile(path_)) : read_model_config(path_);
}

ModelConfig Parent::config() const {
  return gguf_ ? read_gguf_config(GgufFile(path_)) : read_parent_config(path_);
}

void Parent::import(const ModelConfig& config, Weights& weights, const Order* order) const {
  if (gguf_)
    import_gguf_weights(GgufFile(path_), config, weights, order);
  else
    import_weights(path_, config, weights, order);
}

ParameterSource Parent::parameters(const ModelConfig& config, const Order* order) const {
  if (gguf_) {
    const auto file = std::make_shared<GgufFile>(path_);
    return [file, from = gguf_parameters(*file, config, order)](int64_t i) { return from(i); };
  }
  const auto tensors = std::make_shared<PublishedTensors>(path_, config);
  return [tensors, from = published_parameters(*tensors, config, order)](int64_t i) {
    return from(i);
  };
}

std::string Parent::weights_digest() const {
  return gguf_ ? digest_of_file(path_) : digest_of_weights(path_);
}

std::string Parent::config_digest() const {
  return gguf_ ? digest_of_file(path_) : digest_of_config(path_);
}

std::map<std::string, std::string> Parent::tokenizer_files() const {
  return gguf_ ? gguf_tokenizer_files(GgufFile(path_)) : read_tokenizer_files(path_);
}

std::string Parent::name() const {
  return gguf_ ? path_.stem().string() : path_.filename().string();
}

std::string Parent::licence() const {
  if (!gguf_) return licence_of(path_);
  const GgufFile file(path_);
  return file.has(kLicenceKey) ? file.text(kLicenceKey) : "";
}

Tokenizer open_tokenizer(const fs::path& path) {
  if (!is_gguf(path)) return Tokenizer(path);
  const auto files = gguf_tokenizer_files(GgufFile(path));
  const auto at = files.find("tokenizer.json");
  NESTLING_CHECK_INPUT(at != files.end(), path.string(), ": holds no tokenizer");
  return {at->second, path.string() + ": tokenizer"};
}

}  // namespace nestling
