#include "model/huggingface_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "model/interleave.h"

namespace nestling {

namespace {

constexpr std::string_view kWeight = ".weight";

// "...mixer.in_proj" of "...mixer.in_proj.weight"
std::string module_of(const std::string& name) {
  return name.substr(0, name.size() - kWeight.size());
}

TensorToStore codes_to_store(const Weights& weights, const std::string& name, const Published& p,
                             const CodeArray& a) {
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(p.parts.front())];
  const int64_t rows = spec.published_shape[0], bytes_of_row = a.row_bytes(spec.published_shape[1]);
  const bool packed = a.unit > 1;
  return {.name = name,
          .type = packed ? StoredType::kU8 : StoredType::kF8E4M3,
          .shape = {rows, bytes_of_row},
          .produce = [&weights, p, a, rows, bytes_of_row](const ByteSink& sink) {
            std::vector<std::byte> bytes(static_cast<size_t>(bytes_of_row));
            for (int64_t r = 0; r < rows; ++r) {
              gather_codes(weights, p, a, r, bytes);
              sink(bytes);
            }
          }};
}

TensorToStore scalar_to_store(std::string name, float value) {
  return {.name = std::move(name),
          .type = StoredType::kF32,
          .shape = {},
          .produce = [value](const ByteSink& sink) { sink(std::as_bytes(std::span(&value, 1))); }};
}

float read_scalar(PublishedTensors& tensors, const std::string& name) {
  const StoredTensor* t = tensors.find(name);
  NESTLING_CHECK_INPUT(t != nullptr, tensors.directory(), ": tensor ", name, " is missing");
  NESTLING_CHECK_INPUT(t->type == StoredType::kF32 && t->size() == 1, t->describe(),
                       ": needs one F32");
  float value = 0;
  std::memcpy(&value, t->bytes.data(), sizeof value);
  NESTLING_CHECK_INPUT(std::isfinite(value) && value > 0, t->describe(), ": is ", value,
                       ", no scale");
  return value;
}

// Of one published tensor of codes; checks the types and shapes of all that belongs to it.
WeightFormat read_format(PublishedTensors& tensors, const ParameterSpec& spec,
                         const std::string& name) {
  const std::vector<int64_t>& shape = spec.published_shape;
  const StoredTensor* t = tensors.find(name);
  NESTLING_CHECK_INPUT(t != nullptr, tensors.directory(), ": tensor ", name, " is missing");
  if (t->type == StoredType::kF8E4M3) {
    tensors.need(name, shape);
    return WeightFormat::kFp8;
  }
  NESTLING_CHECK_INPUT(t->type == StoredType::kU8, t->describe(),
                       ": stands among weights that are codes; needs F8_E4M3 or NVFP4's U8");
  NESTLING_CHECK_INPUT(spec.dims.back().extent % kNvfp4Block == 0, t->describe(), ": runs of ",
                       spec.dims.back().extent, " columns are no whole blocks of ", kNvfp4Block);
  tensors.need(name, {shape[0], shape[1] / 2});
  const StoredTensor& blocks =
      tensors.need(module_of(name) + ".weight_scale", {shape[0], shape[1] / kNvfp4Block});
  NESTLING_CHECK_INPUT(blocks.type == StoredType::kF8E4M3, blocks.describe(), ": needs F8_E4M3");
  return WeightFormat::kNvfp4;
}

TensorScales read_scales(PublishedTensors& tensors, const ParameterSpec& spec,
                         WeightFormat format) {
  TensorScales scales;
  for (int64_t e = 0; e < published_matrix(spec).count; ++e) {
    const std::string module = module_of(spec.published_of(e));
    const char* of_weight = format == WeightFormat::kFp8 ? ".weight_scale" : ".weight_scale_2";
    const TensorScales own{.weight = {read_scalar(tensors, module + of_weight)},
                           .input = read_scalar(tensors, module + ".input_scale")};
    check_scales(own, format, tensors.directory() + ": " + module);
    scales.weight.push_back(own.weight.front());
    scales.input = std::max(scales.input, own.input);
  }
  check_scales(scales, format, tensors.directory() + ": " + spec.published);
  return scales;
}

bool is_scale_of_cache(const std::string& name) {
  return name.ends_with(".k_proj.k_scale") || name.ends_with(".v_proj.v_scale");
}

// Modules whose matrices, and convolutions, are no codes; the head too where it is the embeddings'.
std::vector<std::string> excluded_modules(const Weights& weights) {
  std::vector<std::string> modules;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    const bool matrix =
        spec.published_shape.size() > 1 && spec.published.ends_with(kWeight) && spec.layer >= 0;
    if (!matrix || weights.codes(i)) continue;
    for (int64_t e = 0; e < published_matrix(spec).count; ++e) {
      std::string module = module_of(spec.published_of(e));
      if (modules.empty() || modules.back() != module) modules.push_back(std::move(module));
    }
  }
  if (std::ranges::find(modules, "lm_head") == modules.end()) modules.emplace_back("lm_head");
  return modules;
}

}  // namespace

std::optional<Quantization> read_quantization(PublishedTensors& tensors,
                                              const ModelConfig& config) {
  std::optional<Quantization> q;
  const std::vector<ParameterSpec> specs = parameter_list(config);
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const std::string first = spec.published_of(0);
    if (!first.ends_with(kWeight) || !tensors.has(module_of(first) + ".weight_scale")) continue;
    NESTLING_CHECK_INPUT(takes_codes(config, spec), tensors.directory(), ": ", first,
                         " has a weight_scale; only products of Mamba, dense and expert layers are "
                         "read as codes");
    for (int64_t e = 0; e < published_matrix(spec).count; ++e) {
      const WeightFormat format = read_format(tensors, spec, spec.published_of(e));
      if (!q) q = Quantization{.format = format, .parameters = {}};
      NESTLING_CHECK_INPUT(q->format == format, tensors.directory(), ": ", spec.published_of(e),
                           " is ", weight_format_name(format), ", others are ",
                           weight_format_name(q->format), "; needs one format");
    }
    q->parameters.resize(specs.size());
    q->parameters[i] = read_scales(tensors, spec, q->format);
  }
  if (q) q->parameters.resize(specs.size());
  tensors.pass_over(is_scale_of_cache);
  return q;
}

void import_codes(PublishedTensors& tensors, Weights& weights, int64_t i) {
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
  const bool nvfp4 = weights.quantization()->format == WeightFormat::kNvfp4;
  const PublishedMatrix m = published_matrix(spec);
  const auto read = [&](const std::string& name, const CodeArray& a, View to, int64_t e,
                        bool has_nan, bool blocks) {
    const StoredTensor& tensor = *tensors.find(name);
    if (has_nan) check_codes(tensor.bytes, blocks, tensor.describe());
    const auto length = static_cast<size_t>(a.row_bytes(m.cols));
    scatter_codes(
        spec, spec.row_begin, a,
        [&](int64_t row) {
          return tensor.bytes.subspan(static_cast<size_t>(row) * length, length);
        },
        to.data() + e * m.rows * a.row_bytes(m.cols));
  };
  for (int64_t e = 0; e < m.count; ++e) {
    const std::string name = spec.published_of(e);
    read(name, nvfp4 ? kNvfp4Codes : kFp8Codes, weights.codes(i), e, !nvfp4, false);
    if (nvfp4)
      read(module_of(name) + ".weight_scale", kBlockScales, weights.block_scales(i), e, true, true);
  }
}

void store_codes(const Weights& weights, const NamedPublished& tensor,
                 std::vector<TensorToStore>& tensors) {
  const Published& p = tensor.from;
  const Quantization& q = *weights.quantization();
  NESTLING_CHECK_INPUT(
      !weights.specs()[static_cast<size_t>(p.parts.front())].one_tensor, tensor.name,
      ": this family publishes experts as one tensor, for which there is no form in codes");
  const TensorScales& scales = *q.parameters[static_cast<size_t>(p.parts.front())];
  const std::string module = module_of(tensor.name);
  const float weight = scales.weight[static_cast<size_t>(p.expert)];
  if (q.format == WeightFormat::kFp8) {
    tensors.push_back(codes_to_store(weights, tensor.name, p, kFp8Codes));
    tensors.push_back(scalar_to_store(module + ".weight_scale", weight));
  } else {
    tensors.push_back(codes_to_store(weights, tensor.name, p, kNvfp4Codes));
    tensors.push_back(codes_to_store(weights, module + ".weight_scale", p, kBlockScales));
    tensors.push_back(scalar_to_store(module + ".weight_scale_2", weight));
  }
  tensors.push_back(scalar_to_store(module + ".input_scale", scales.input));
}

void add_quantization_config(const std::filesystem::path& directory, const Weights& weights,
                             Json& config) {
  const bool nvfp4 = weights.quantization()->format == WeightFormat::kNvfp4;
  const char* algorithm = nvfp4 ? "NVFP4" : "FP8";
  const std::vector<std::string> excluded = excluded_modules(weights);
  const Json producer = {{"name", "modelopt"},
                         {"version", "nestling"}};  // readers know the format by its name
  Json quantization = {
      {"quant_algo", algorithm}, {"kv_cache_quant_algo", nullptr}, {"exclude_modules", excluded}};
  Json operand = {{"dynamic", false}, {"num_bits", nvfp4 ? 4 : 8}, {"type", "float"}};
  if (nvfp4) {
    quantization["group_size"] = kNvfp4Block;
    operand["group_size"] = kNvfp4Block;
  }
  config["quantization_config"] = {
      {"config_groups",
       {{"group_0",
         {{"input_activations", operand}, {"weights", operand}, {"targets", {"Linear"}}}}}},
      {"ignore", excluded},
      {"quant_algo", algorithm},
      {"producer", producer},
      {"quant_method", "modelopt"}};
  write_json(directory / "hf_quant_config.json",
             Json{{"producer", producer}, {"quantization", quantization}});
}

}  // namespace nestling
