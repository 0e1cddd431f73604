#include "model/huggingface.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "data/narrow.h"
#include "data/safetensors_writer.h"
#include "model/huggingface_codes.h"
#include "model/interleave.h"
#include "model/order.h"
#include "model/published_names.h"
#include "model/published_numbers.h"
#include "model/published_rows.h"
#include "model/published_tensors.h"

namespace nestling {

namespace {

StoredType type_of(const ExportOptions& options, const std::string& name,
                   const ParameterSpec& spec) {
  const auto at = options.types.find(name);
  return at != options.types.end() ? at->second : published_type(spec, options.type);
}

TensorToStore to_store(const Weights& weights, const NamedPublished& tensor, StoredType type) {
  const Published& p = tensor.from;
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(p.parts.front())];
  const int64_t experts = spec.one_tensor ? spec.dims[0].extent : 1;
  const int64_t length = spec.published_shape[0], cols = published_matrix(spec).cols;
  std::vector<int64_t> shape = spec.published_shape;
  if (spec.one_tensor) shape.insert(shape.begin(), experts);
  return {.name = tensor.name,
          .type = type,
          .shape = std::move(shape),
          .produce = [&weights, p, type, experts, length, cols](const ByteSink& sink) {
            const PublishedRows rows(weights, p.parts);
            std::vector<float> row(static_cast<size_t>(cols));
            std::vector<std::byte> bytes;
            for (int64_t i = 0; i < experts * length; ++i) {
              rows.read(p.expert + i / length, i % length, row);
              narrow_from_float(type, row, bytes);
              sink(bytes);
            }
          }};
}

void refuse_codes(const std::optional<Quantization>& q, const std::filesystem::path& directory) {
  NESTLING_CHECK_INPUT(!q, directory.string(), ": its weights are ", weight_format_name(q->format),
                       " codes, which run but are neither trained nor trained from; needs BF16, "
                       "F16 or F32");
}

}  // namespace

StoredType published_type(const ParameterSpec& spec, StoredType type) {
  const bool sensitive = !spec.trained || spec.init == Init::kALog || spec.init == Init::kDtBias;
  return sensitive ? StoredType::kF32 : type;
}

ModelConfig read_weights_config(const std::filesystem::path& directory) {
  ModelConfig config = read_model_config(directory);
  PublishedTensors tensors(directory, config);
  const auto quantized = read_quantization(tensors, config);
  int64_t i = 0;
  for (const ParameterSpec& spec : parameter_list(config))
    if (!quantized || !quantized->parameters[static_cast<size_t>(i++)])
      tensors.each_of(spec, [](const StoredTensor& t, int64_t, int64_t) { check_numbers(t); });
  tensors.check_all_used();
  return config;
}

std::optional<Quantization> read_quantization(const std::filesystem::path& directory,
                                              const ModelConfig& config) {
  PublishedTensors tensors(directory, config);
  return read_quantization(tensors, config);
}

ModelConfig read_parent_config(const std::filesystem::path& directory) {
  ModelConfig config = read_weights_config(directory);
  refuse_codes(read_quantization(directory, config), directory);
  return config;
}

PublishedTypes import_weights(const std::filesystem::path& directory, const ModelConfig& config,
                              Weights& weights, const Order* order) {
  NESTLING_CHECK(order == nullptr || !weights.quantization(), "codes are not put in another order");
  if (weights.quantization() && weights.device() != Device::kCpu) {
    Weights host(config, Device::kCpu, {.quantization = weights.quantization()});
    PublishedTypes types = import_weights(directory, config, host);
    Context ctx(weights.device());
    weights.take_masters(ctx, host);
    return types;
  }
  if (order != nullptr) check_order(config, *order);
  PublishedTensors tensors(directory, config);
  const auto quantized = read_quantization(tensors, config);
  if (!weights.quantization()) refuse_codes(quantized, directory);
  PublishedTypes types;
  for (int64_t i = 0; i < weights.count(); ++i) {
    if (weights.codes(i)) {
      import_codes(tensors, weights, i);
      continue;
    }
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    weights.fill(i, [&](View values) {
      read_numbers(tensors, spec, values.ptr<float>(),
                   [&](const std::string& name, StoredType type) { types[name] = type; });
      if (order != nullptr) permute(spec, *order, values);
    });
  }
  tensors.check_all_used();
  Context ctx(weights.device());
  weights.refresh_low(ctx);
  ctx.synchronize();
  return types;
}

void export_weights(const std::filesystem::path& directory, const ModelConfig& config,
                    const Weights& weights, const ExportOptions& options) {
  check_published_form(config, directory.string());
  if (weights.device() != Device::kCpu)
    return export_weights(directory, config, weights.on(Device::kCpu, DType::kF32), options);
  std::vector<TensorToStore> tensors;
  for (const NamedPublished& tensor : published_tensors(weights)) {
    const int64_t first = tensor.from.parts.front();
    if (weights.codes(first))
      store_codes(weights, tensor, tensors);
    else
      tensors.push_back(
          to_store(weights, tensor,
                   type_of(options, tensor.name, weights.specs()[static_cast<size_t>(first)])));
  }
  write_safetensors_dir(directory, std::move(tensors), options.max_shard_bytes);
  Json json = model_config_json(config, options.type);
  if (weights.quantization()) add_quantization_config(directory, weights, json);
  write_json(directory / "config.json", json);
}

std::string digest_of_weights(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  uint32_t crc = 0;
  for (const auto& file : files) crc = crc32c(MappedFile(file).bytes(), crc);
  return "crc32c:" + crc32c_hex(crc);
}

std::string digest_of_config(const std::filesystem::path& directory) {
  return "crc32c:" + crc32c_hex(crc32c(MappedFile(directory / "config.json").bytes()));
}

}  // namespace nestling
