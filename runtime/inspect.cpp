#include "runtime/inspect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "model/cost.h"
#include "model/elastic_file.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

Json layers_json(const ModelConfig& config, const Widths& widths) {
  Json layers = Json::array();
  for (int64_t l = 0; l < config.layers(); ++l) {
    Json layer = {{"kind", std::string(1, static_cast<char>(config.kind(l)))},
                  {"kept", widths.layers[static_cast<size_t>(l)].kept != 0}};
    for (const Axis axis : axes_of(config, config.kind(l)))
      layer[axis_name(axis)] = width_of(widths, l, axis);
    layers.push_back(std::move(layer));
  }
  return layers;
}

Json size_json(const ModelConfig& config, const std::string& name, const Widths& widths) {
  const ParameterCost cost = parameter_cost(config, widths);
  return {{"name", name},
          {"params_total", cost.total},
          {"params_active", cost.active},
          {"hidden", widths.hidden},
          {"bytes_read", nullptr},
          {"budget", nullptr},
          {"target", nullptr},
          {"target_terms", nullptr},
          {"cost", nullptr},
          {"trained", true},
          {"measured", nullptr},
          {"layers", layers_json(config, widths)}};
}

Json measured_json(const MeasuredQuality& m) {
  const auto asked = [](int64_t n, double value) { return n > 0 ? Json(value) : Json(nullptr); };
  return {{"tokens", m.tokens},
          {"kl_to_parent", asked(m.tokens, m.kl)},
          {"nll", asked(m.tokens, m.nll)},
          {"problems", m.problems},
          {"accuracy", asked(m.problems, m.accuracy)},
          {"compute", m.compute}};
}

Json elastic_size_json(const ModelConfig& config, const fs::path& path, const Size& s) {
  Json size = size_json(config, s.name, s.widths);
  const OpeningBytes bytes = opening_bytes(path, s.name);
  size["bytes"] = bytes.weights;
  size["bytes_read"] = bytes.read;
  size["budget"] = s.budget;
  size["target"] = cost_kind_name(s.target.kind);
  size["target_terms"] = target_text(s.target);
  size["cost"] = CostFunction(config, s.target)(expected(s.widths));
  size["trained"] = s.trained;
  if (s.measured) size["measured"] = measured_json(*s.measured);
  return size;
}

// Of a model of one size, whose weights are `bytes` as stored. `precision`: of what is numbers.
Json one_size_json(const ModelConfig& config, const std::string& name, int64_t bytes,
                   const std::optional<Quantization>& quantized, const std::string& precision) {
  Json size = size_json(config, name, full_widths(config));
  size["bytes"] = bytes;
  return {{"sizes", {size}},
          {"precision", quantized ? weight_format_label(quantized->format) : Json(precision)},
          {"unquantized", quantized ? Json(precision) : nullptr},
          {"format_version", nullptr},
          {"router", nullptr},
          {"provenance", Json::object()}};
}

void check_name(const fs::path& path, const std::string& only, const std::string& name,
                const char* kind) {
  NESTLING_CHECK_INPUT(only.empty() || only == name, path.string(), ": no size '", only, "'; a ",
                       kind, " has one size, ", name);
}

// The texts of a GGUF file that say what it is and where it comes from.
Json gguf_provenance(const GgufFile& file) {
  Json said = Json::object();
  for (const std::string& key : file.keys())
    if ((key.starts_with("general.") || key.starts_with("nestling.")) && file.is_text(key))
      said[key] = file.text(key);
  return said;
}

// Most of the bytes that are numbers are of this type.
std::string most_numbers(const GgufFile& file) {
  std::map<GgmlType, int64_t> bytes;
  for (const GgufStored& t : file.tensors())
    if (t.type != GgmlType::kNvfp4) bytes[t.type] += std::ssize(t.bytes);
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return ggml_type_name(most->first);
}

Json inspect_gguf(const fs::path& path, const std::string& only) {
  const GgufFile file(path);
  const ModelConfig config = read_gguf_config(file);
  const std::string name = path.stem().string();
  check_name(path, only, name, "GGUF file");
  int64_t bytes = 0;
  for (const GgufStored& t : file.tensors()) bytes += std::ssize(t.bytes);
  Json found =
      one_size_json(config, name, bytes, read_gguf_quantization(file, config), most_numbers(file));
  found["provenance"] = gguf_provenance(file);
  return found;
}

Json inspect_directory(const fs::path& path, const std::string& only) {
  const ModelConfig config = read_weights_config(path);
  const SafetensorsDir files(path);
  int64_t bytes = 0;
  std::string precision;
  for (const StoredTensor* t : files.tensors()) {
    bytes += std::ssize(t->bytes);
    // The embedding's type: short vectors may be kept in another.
    if (t->name.ends_with("embeddings.weight") || precision.empty())
      precision = stored_name(t->type);
  }
  const std::string name = fs::weakly_canonical(path).filename().string();
  check_name(path, only, name, "directory");
  return one_size_json(config, name, bytes, read_quantization(path, config), precision);
}

}  // namespace

Json inspect_model(const std::filesystem::path& path, const std::string& only) {
  NESTLING_CHECK_INPUT(fs::exists(path), path.string(), ": not found");
  if (fs::is_directory(path)) return inspect_directory(path, only);
  if (is_gguf(path)) return inspect_gguf(path, only);
  const ElasticHeader h = read_elastic_header(path);
  Json sizes = Json::array();
  std::vector<Size> shown = h.model.sizes;
  if (!only.empty()) shown = {find_elastic_size(path, only)};
  for (const Size& s : shown) sizes.push_back(elastic_size_json(h.model.config, path, s));
  const Json stored = stored_name(h.precision);
  return {{"sizes", sizes},
          {"precision", h.quantization ? weight_format_label(h.quantization->format) : stored},
          {"unquantized", h.quantization ? stored : nullptr},
          {"format_version", h.format_version},
          {"router", !h.model.router.json.empty()},
          {"provenance", h.model.provenance}};
}

}  // namespace nestling
