#include "model/gguf_architecture.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace nestling {

namespace {

const GgufArchitecture* const kArchitectures[] = {&kGgufNemotron,  &kGgufNemotronMoe, &kGgufLlama,
                                                  &kGgufQwen3,     &kGgufQwen3Moe,    &kGgufGranite,
                                                  &kGgufGraniteMoe};

// Of an architecture that has one name with experts and without.
LayerKind feeding_of(const GgufFile& file, const std::string& name) {
  const std::string key = name + ".expert_count";
  return file.has(key) && file.integer(key) > 0 ? LayerKind::kMoe : LayerKind::kDense;
}

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
    if (name == a->name && (!a->with_or_without || feeding_of(file, name) == a->feeding)) return *a;
    if (known.find(str("'", a->name, "'")) == std::string::npos)
      known += str(known.empty() ? "'" : ", '", a->name, "'");
  }
  NESTLING_CHECK_INPUT(false, file.name(), ": key ", gguf_key::kArchitecture, " is '", name,
                       "', only ", known, " are supported");
  return kGgufNemotron;
}

}  // namespace nestling
