#include <algorithm>

#include "data/gguf_reader.h"
#include "model/gguf.h"
#include "model/gguf_architecture.h"
#include "model/gguf_import.h"

namespace nestling {

namespace {

// What changes a model of any architecture and is not done here.
void refuse_unsupported(const GgufFile& file, const std::string& architecture) {
  const auto at_most = [&](const std::string& key, int64_t most, const char* what) {
    NESTLING_CHECK_INPUT(!file.has(key) || file.integer(key) <= most, file.name(), ": key ", key,
                         " is ", file.integer(key), ": ", what);
  };
  at_most("split.count", 1, "one of several files; llama-gguf-split --merge makes one of them");
  at_most(architecture + ".nextn_predict_layers", 0,
          "layers of multi-token prediction are not supported");
}

void read_token_ids(const GgufFile& file, ModelConfig& c) {
  if (file.has(gguf_key::kBos)) c.bos = file.integer(gguf_key::kBos);
  if (file.has(gguf_key::kPadding)) c.pad = file.integer(gguf_key::kPadding);
  for (const char* key : gguf_key::kEnds) {
    if (!file.has(key)) continue;
    const int64_t id = file.integer(key);
    if (std::ranges::find(c.eos, id) == c.eos.end()) c.eos.push_back(id);
  }
}

}  // namespace

void check_gguf_config(const ModelConfig& c, const std::string& where) {
  gguf_architecture_of(c, where).check(c, where);
}

std::string gguf_architecture(const ModelConfig& c) {
  return gguf_architecture_of(c, "the model").name;
}

std::vector<GgufKey> gguf_model_keys(const ModelConfig& c) {
  return gguf_architecture_of(c, "the model").write(c);
}

ModelConfig gguf_keys_config(const GgufFile& file) {
  const GgufArchitecture& architecture = gguf_architecture_of(file);
  refuse_unsupported(file, architecture.name);
  ModelConfig c;
  if (file.has(gguf_key::kTokens)) c.vocab = file.length(gguf_key::kTokens);
  architecture.read(file, c);
  read_token_ids(file, c);
  return c;
}

}  // namespace nestling
