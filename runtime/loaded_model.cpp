#include "runtime/loaded_model.h"

#include "data/model_files.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"
#include "runtime/gguf_tokenizer_files.h"

namespace nestling {

namespace {

// Codes are read on the host. Of numbers that products read as bf16 there is nothing else.
Weights room_for(const ModelConfig& config, std::optional<Quantization> quantization, DType compute,
                 Device device) {
  const bool codes = quantization.has_value();
  return {config, codes ? Device::kCpu : device,
          WeightsOptions{.compute = compute,
                         .masters_dropped = !codes && compute == DType::kBF16,
                         .quantization = std::move(quantization)}};
}

}  // namespace

LoadedModel::Opened LoadedModel::open_directory(const std::filesystem::path& path, DType compute,
                                                Device device) {
  const ModelConfig config = read_weights_config(path);
  Opened o{.config = config,
           .weights = room_for(config, read_quantization(path, config), compute, device),
           .sizes = {{.name = std::filesystem::weakly_canonical(path).filename().string(),
                      .target = {},
                      .widths = full_widths(config)}},
           .tokenizer = {},
           .files = read_tokenizer_files(path)};
  import_weights(path, config, o.weights);
  if (o.files.contains("tokenizer.json")) o.tokenizer.emplace(path);
  return o;
}

LoadedModel::Opened LoadedModel::open_gguf(const std::filesystem::path& path, DType compute,
                                           Device device) {
  const GgufFile file(path);
  const ModelConfig config = read_gguf_config(file);
  Opened o{.config = config,
           .weights = room_for(config, read_gguf_quantization(file, config), compute, device),
           .sizes = {{.name = path.stem().string(), .target = {}, .widths = full_widths(config)}},
           .tokenizer = {},
           .files = gguf_tokenizer_files(file)};
  import_gguf_weights(file, config, o.weights);
  if (const auto at = o.files.find("tokenizer.json"); at != o.files.end())
    o.tokenizer.emplace(at->second, file.name() + ": tokenizer");
  return o;
}

LoadedModel::Opened LoadedModel::open_elastic(const std::filesystem::path& path, DType compute,
                                              const std::string& size, Device device) {
  ElasticFacts facts = read_elastic_facts(path);
  LoadedSize loaded = size.empty() ? load_elastic_whole(path, compute, device)
                                   : load_elastic(path, size, compute, device);
  Opened o{.config = loaded.config,
           .weights = std::move(loaded.weights),
           .sizes = std::move(facts.sizes),
           .tokenizer = {},
           .files = std::move(facts.tokenizer),
           .bytes_read = loaded.bytes_read,
           .whole = size.empty()};
  if (!o.whole) {
    o.sizes = {std::move(loaded.size)};
    o.sizes[0].widths = full_widths(o.config);
  }
  if (const auto at = o.files.find("tokenizer.json"); at != o.files.end())
    o.tokenizer.emplace(at->second, path.string() + ": /tokenizer/tokenizer.json");
  return o;
}

LoadedModel::Opened LoadedModel::open(const std::filesystem::path& path, DType compute,
                                      const std::string& size, Device device) {
  NESTLING_CHECK_INPUT(std::filesystem::exists(path), path.string(), ": not found");
  const bool gguf = is_gguf(path);
  if (!gguf && !std::filesystem::is_directory(path))
    return open_elastic(path, compute, size, device);
  Opened o = gguf ? open_gguf(path, compute, device) : open_directory(path, compute, device);
  NESTLING_CHECK_INPUT(size.empty() || size == o.sizes[0].name, path.string(), ": no size '", size,
                       "'; a ", gguf ? "GGUF file" : "directory", " has one size, ",
                       o.sizes[0].name);
  return o;
}

LoadedModel::LoadedModel(const std::filesystem::path& path, Precision precision,
                         const std::string& size, Device device)
    : LoadedModel(path, open(path, precision.compute, size, device)) {
  activations_ = precision.activations;
  NESTLING_CHECK(
      activations_ == DType::kF32 || (precision.compute == DType::kBF16 && device != Device::kCpu),
      path.string(), ": ", dtype_name(activations_), " activations with ",
      dtype_name(precision.compute), " products on ", device_name(device));
  if (weights_.device() == device) return;
  weights_ = weights_.on(device, precision.compute);
  if (precision.compute == DType::kBF16) weights_.drop_masters();
}

LoadedModel::LoadedModel(const std::filesystem::path& path, Opened o)
    : path_(path),
      name_(std::filesystem::weakly_canonical(path).filename().string()),
      config_(std::move(o.config)),
      weights_(std::move(o.weights)),
      sizes_(std::move(o.sizes)),
      selected_(sizes_.front()),
      whole_(o.whole),
      tokenizer_(std::move(o.tokenizer)),
      files_(std::move(o.files)),
      bytes_read_(o.bytes_read) {
  if (tokenizer_)
    NESTLING_CHECK_INPUT(tokenizer_->vocab_size() <= config_.vocab, path.string(),
                         ": the tokenizer has ids up to ", tokenizer_->vocab_size() - 1,
                         ", the config a vocab_size of ", config_.vocab);
}

const Tokenizer& LoadedModel::tokenizer() const {
  NESTLING_CHECK_INPUT(tokenizer_.has_value(), path_.string(), ": no tokenizer.json");
  return *tokenizer_;
}

ModelParams<Weight> LoadedModel::params(const Widths& widths) {
  return prefix_parameters(config_, widths, weights_.params(largest_inputs_));
}

std::vector<std::string> LoadedModel::sizes() const {
  std::vector<std::string> names;
  for (const Size& s : sizes_) names.push_back(s.name);
  return names;
}

Size LoadedModel::find(const std::string& size) const {
  for (const Size& s : sizes_)
    if (s.name == size) return s;
  NESTLING_CHECK_INPUT(whole_, path_.string(), ": no size '", size, "' in what is open; there is ",
                       sizes_.front().name);
  return find_elastic_size(path_, size);
}

ParameterCost LoadedModel::cost() const {
  return parameter_cost(config_, selected_.widths);
}

}  // namespace nestling
