#include "runtime/export_gguf.h"

#include <cstdio>
#include <utility>

#include "data/gguf_reader.h"
#include "kernels/core/versions.h"
#include "model/gguf.h"
#include "runtime/gguf_tokenizer.h"
#include "runtime/loaded_model.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

struct GgufPrecision {
  const char* name;
  GgmlType type;
  uint32_t file_type;  // general.file_type
};
constexpr GgufPrecision kPrecisions[] = {{"fp32", GgmlType::kF32, 0},
                                         {"fp16", GgmlType::kF16, 1},
                                         {"q8_0", GgmlType::kQ8, 7},
                                         {"bf16", GgmlType::kBF16, 32},
                                         {"nvfp4", GgmlType::kNvfp4, 39}};

const GgufPrecision& precision_of(GgmlType type) {
  for (const GgufPrecision& p : kPrecisions)
    if (p.type == type) return p;
  throw Error(str("no precision is ", ggml_type_name(type)));
}

void check_paths(const fs::path& model, const std::string& size, const fs::path& out) {
  NESTLING_CHECK_INPUT(fs::exists(model), model.string(), ": not found");
  NESTLING_CHECK_INPUT(!fs::exists(out) || !fs::equivalent(model, out), out.string(),
                       ": is the model that is to be exported");
  if (!size.empty() || fs::is_directory(model) || is_gguf(model)) return;
  std::string names;
  for (const Size& s : read_elastic_facts(model).sizes)
    names += (names.empty() ? "" : ", ") + s.name;
  NESTLING_CHECK_INPUT(false, model.string(), ": --size is missing; there are ", names);
}

// The type asked for, or that of the file, and what is to be said of it.
GgmlType choose_type(const std::optional<Quantization>& q, const GgufOptions& options,
                     const std::string& where, std::vector<std::string>& notes) {
  const std::string held = q ? weight_format_label(q->format) : "numbers";
  const bool nvfp4 = q && q->format == WeightFormat::kNvfp4;
  NESTLING_CHECK_INPUT(!q || nvfp4 || options.type, where, ": its weights are ", held,
                       " codes, which llama.cpp has no type for; --precision bf16 writes the "
                       "numbers they stand for, rounded");
  const GgmlType type = options.type.value_or(nvfp4 ? GgmlType::kNvfp4 : GgmlType::kBF16);
  NESTLING_CHECK_INPUT(type != GgmlType::kNvfp4 || nvfp4, where, ": its weights are ", held,
                       ", not NVFP4; `nestling quantize` makes them");
  if (q && type != GgmlType::kNvfp4)
    notes.push_back(str("its ", held, " codes are written as the numbers they stand for, in ",
                        ggml_type_name(type), "; activations are not quantized there"));
  if (type == GgmlType::kNvfp4)
    notes.emplace_back("what is not NVFP4 is in BF16, and F32 as llama.cpp asks for it");
  return type;
}

// "9.1M": two digits at least.
std::string rounded(double count) {
  constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}};
  double unit = 1e3;
  const char* suffix = "K";
  for (const auto& u : kUnits)
    if (count > u.first) {
      unit = u.first;
      suffix = u.second;
      break;
    }
  char text[64];
  std::snprintf(text, sizeof text, count / unit < 9.5 ? "%.1f%s" : "%.0f%s", count / unit, suffix);
  return text;
}

// As llama.cpp's converter labels sizes: "9.1M"; of experts "32x1.5M", their number and what one
// comes to with all that is not an expert.
std::string size_label(const ModelConfig& config, const ParameterCost& cost) {
  if (!config.has(LayerKind::kMoe)) return rounded(static_cast<double>(cost.total));
  int64_t layers = 0;
  for (int64_t l = 0; l < config.layers(); ++l) layers += config.kind(l) == LayerKind::kMoe;
  const int64_t matrices = config.activation == Activation::kGatedSilu ? 3 : 2;
  const int64_t one = layers * matrices * config.expert_ffn * config.hidden;
  return str(config.experts, "x",
             rounded(static_cast<double>(cost.total - (config.experts - 1) * one)));
}

// Where it comes from, as far as the source says.
struct Origin {
  std::string name, size;  // of the model as it will be called, and of the size
  std::string parent = {}, parent_digest = {}, licence = {}, digest = {};
};
Origin origin_of_gguf(const fs::path& model, const std::string& stem) {
  const GgufFile file(model);
  const auto said = [&](const char* key) { return file.has(key) ? file.text(key) : std::string(); };
  return {.name = file.has("general.name") ? said("general.name") : stem,
          .size = said("nestling.size"),
          .parent = said("general.base_model.0.name"),
          .parent_digest = said("nestling.parent_digest"),
          .licence = said("general.license"),
          .digest = said("nestling.source_digest")};
}
Origin origin_of(const fs::path& path, const LoadedModel& model) {
  if (fs::is_directory(path)) return {.name = model.name(), .size = model.size()};
  if (is_gguf(path)) return origin_of_gguf(path, model.size());
  const auto provenance = read_elastic_header(path).model.provenance;
  const auto said = [&](const char* key) {
    const auto at = provenance.find(key);
    return at == provenance.end() ? std::string() : at->second;
  };
  const std::string parent = said(provenance::kParent);
  return {.name = (parent.empty() ? model.name() : parent) + " " + model.size(),
          .size = model.size(),
          .parent = parent,
          .parent_digest = said(provenance::kParentDigest),
          .licence = said(provenance::kParentLicence),
          .digest = elastic_digest(path)};
}

std::vector<GgufKey> general_keys(const LoadedModel& model, const Origin& from, GgmlType type) {
  std::vector<GgufKey> keys = {{"general.architecture", gguf_architecture(model.config())},
                               {"general.type", std::string("model")},
                               {"general.name", from.name},
                               {"general.size_label", size_label(model.config(), model.cost())}};
  const auto say = [&](const char* key, const std::string& text) {
    if (!text.empty()) keys.push_back({key, text});
  };
  say("general.license", from.licence);
  if (!from.parent.empty()) {
    keys.push_back({"general.base_model.count", uint32_t{1}});
    say("general.base_model.0.name", from.parent);
  }
  keys.push_back({"general.file_type", precision_of(type).file_type});
  keys.push_back({"general.quantization_version", uint32_t{2}});
  say("nestling.version", program_version());
  say("nestling.size", from.size);
  say("nestling.source_digest", from.digest);
  say("nestling.parent_digest", from.parent_digest);
  return keys;
}

void append(std::vector<GgufKey>& to, std::vector<GgufKey> more) {
  for (GgufKey& k : more) to.push_back(std::move(k));
}

}  // namespace

GgmlType parse_gguf_precision(const std::string& name, const std::string& where) {
  std::string names;
  for (const GgufPrecision& p : kPrecisions) {
    if (name == p.name) return p.type;
    names += (names.empty() ? "" : ", ") + std::string(p.name);
  }
  NESTLING_CHECK_INPUT(false, where, " ", name, ": needs one of ", names);
  return {};
}

GgufExport export_gguf(const fs::path& path, const std::string& size, const fs::path& out,
                       const GgufOptions& options) {
  check_paths(path, size, out);
  LoadedModel model(path, DType::kF32, size);
  const std::string where = path.string();
  GgufExport done;
  done.type = choose_type(model.weights().quantization(), options, where, done.notes);
  check_gguf_config(model.config(), where);
  if (!model.trained())
    done.notes.push_back("size " + model.size() +
                         ": the router's widths for this budget, between two sizes that were "
                         "trained; not trained by itself");
  std::vector<GgufKey> keys = general_keys(model, origin_of(path, model), done.type);
  append(keys, gguf_model_keys(model.config()));
  GgufTokenizer tokenizer = options.tokenizer
                                ? gguf_tokenizer(model.tokenizer_files(), model.config(), where)
                                : gguf_no_tokenizer();
  append(keys, std::move(tokenizer.keys));
  for (std::string& note : tokenizer.notes) done.notes.push_back(std::move(note));
  const auto tensors = gguf_tensors(model.config(), model.weights(), done.type, where);
  for (const GgufTensor& t : tensors) done.bytes += gguf_tensor_bytes(t);
  done.tensors = std::ssize(tensors);
  write_gguf(out, keys, tensors);
  return done;
}

}  // namespace nestling
