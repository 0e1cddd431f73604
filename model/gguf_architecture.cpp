#include "model/gguf_architecture.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace nestling {

namespace {

const GgufArchitecture* const kArchitectures[] = {&kGgufNemotron, &kGgufNemotronMoe, &kGgufLlama,
                                                  &kGgufQwen3, &kGgufQwen3Moe};

}  // namespace

const GgufArchitecture& gguf_architecture_of(const ModelConfig& config, const std::string& where) {
  const LayerKind feeding = config.has(LayerKind::kMoe) ? LayerKind::kMoe : LayerKind::kDense;
  for (const GgufArchitecture* a : kArchitectures)
    if (a->family == config.family && a->feeding == feeding) return *a;
  NESTLING_CHECK_INPUT(false, where, ": llama.cpp runs no model of this family ",
                       feeding == LayerKind::kMoe ? "with" : "without", " experts");
  return kGgufNemotron;
}

const GgufArchitecture& gguf_architecture_of(const GgufFile& file) {
  const std::string name = file.text(gguf_key::kArchitecture);
  std::string known;
  for (const GgufArchitecture* a : kArchitectures) {
    if (name == a->name) return *a;
    known += (known.empty() ? "'" : ", '") + std::string(a->name) + "'";
  }
  NESTLING_CHECK_INPUT(false, file.name(), ": key ", gguf_key::kArchitecture, " is '", name,
                       "', only ", known, " are supported");
  return kGgufNemotron;
}

}  // namespace nestling
