#include "model/published_tensors.h"

#include "model/interleave.h"

namespace nestling {

namespace {

// The hub's spelling of a tensor's name.
std::string canonical_name(Family family, std::string name) {
  if (family != Family::kNemotronH) return name;
  if (name.starts_with("model.")) name = "backbone." + name.substr(6);
  if (name == "backbone.embedding.weight") name = "backbone.embeddings.weight";
  return name;
}

std::string extents(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t d = 0; d < shape.size(); ++d) s += (d ? "," : "") + std::to_string(shape[d]);
  return s + "]";
}

}  // namespace

PublishedTensors::PublishedTensors(const std::filesystem::path& directory,
                                   const ModelConfig& config)
    : files_(directory), directory_(directory.string()) {
  for (const StoredTensor* tensor : files_.tensors()) {
    const std::string name = canonical_name(config.family, tensor->name);
    if (name.starts_with("mtp.") || (config.tied && name == "lm_head.weight")) continue;
    const bool fresh = by_name_.emplace(name, tensor).second;
    NESTLING_CHECK_INPUT(fresh, tensor->file, ": tensor ", tensor->name,
                         " is there twice under different names");
  }
}

const StoredTensor* PublishedTensors::find(const std::string& name) {
  const auto at = by_name_.find(name);
  if (at == by_name_.end()) return nullptr;
  used_.insert(name);
  return at->second;
}

const StoredTensor& PublishedTensors::need(const std::string& name,
                                           const std::vector<int64_t>& shape) {
  const StoredTensor* tensor = find(name);
  NESTLING_CHECK_INPUT(tensor != nullptr, directory_, ": tensor ", name, " is missing");
  NESTLING_CHECK_INPUT(tensor->shape == shape, tensor->describe(), ": config.json asks for ",
                       extents(shape));
  return *tensor;
}

void PublishedTensors::pass_over(bool (*is_one)(const std::string& name)) {
  for (const auto& [name, tensor] : by_name_)
    if (is_one(name)) used_.insert(name);
}

void PublishedTensors::check_all_used() const {
  for (const auto& [name, tensor] : by_name_)
    NESTLING_CHECK_INPUT(used_.contains(name), tensor->file, ": tensor ", tensor->name,
                         " belongs to no layer of config.json");
}

void PublishedTensors::each_expert(const ParameterSpec& spec, const Fn& fn) {
  const PublishedMatrix m = published_matrix(spec);
  const int64_t rows = spec.published_shape[0];
  const auto each_in = [&](const std::string& name) {
    const StoredTensor& all = need(name, {m.count, rows, spec.published_shape[1]});
    for (int64_t e = 0; e < m.count; ++e) fn(all, e * rows + spec.row_begin, e);
  };
  if (spec.one_tensor) return each_in(spec.published);
  std::string joined = spec.published;
  joined.erase(joined.find("{e}."), 4);
  const std::string bare = joined.substr(0, joined.size() - std::string(".weight").size());
  for (const std::string& name : {joined, bare}) {
    if (find(name) == nullptr) continue;
    return each_in(name);
  }
  for (int64_t e = 0; e < m.count; ++e) fn(need(spec.published_of(e), spec.published_shape), 0, e);
}

void PublishedTensors::each_of(const ParameterSpec& spec, const Fn& fn) {
  if (spec.stacked()) return each_expert(spec, fn);
  fn(need(spec.published, spec.published_shape), spec.row_begin, 0);
}

void check_numbers(const StoredTensor& tensor) {
  NESTLING_CHECK_INPUT(tensor.type == StoredType::kBF16 || tensor.type == StoredType::kF16 ||
                           tensor.type == StoredType::kF32,
                       tensor.describe(), ": needs BF16, F16 or F32");
}

}  // namespace nestling
