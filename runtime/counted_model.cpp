#include "runtime/counted_model.h"

#include <algorithm>

#include "kernels/ops/sample.h"
#include "model/elastic_quantization.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"
#include "model/model.h"
#include "model/quantize.h"
#include "runtime/decoder.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

bool holds_weights(const fs::path& directory) {
  return std::ranges::any_of(fs::directory_iterator(directory), [](const auto& entry) {
    return entry.path().extension() == ".safetensors";
  });
}

DescribedModel one_size(ModelConfig config, std::string name, std::optional<Quantization> q) {
  Size size{.name = std::move(name), .target = {}, .widths = full_widths(config)};
  return {.config = std::move(config), .sizes = {std::move(size)}, .quantization = std::move(q)};
}

std::optional<Quantization> sized(const ModelConfig& parent, const Widths& widths,
                                  const std::optional<Quantization>& q) {
  if (!q) return {};
  return sized_quantization(sized_parameters(parameter_list(parent), widths), *q);
}

}  // namespace

DescribedModel describe_model(const fs::path& path) {
  NESTLING_CHECK_INPUT(fs::exists(path), path.string(), ": not found");
  if (is_gguf(path)) {
    const GgufFile file(path);
    const ModelConfig config = read_gguf_config(file);
    return one_size(config, path.stem().string(), read_gguf_quantization(file, config));
  }
  if (!fs::is_directory(path)) {
    ElasticHeader header = read_elastic_header(path);
    return {.config = header.model.config,
            .sizes = std::move(header.model.sizes),
            .quantization = std::move(header.quantization),
            .elastic = true};
  }
  const bool weights = holds_weights(path);
  const ModelConfig config = weights ? read_weights_config(path) : read_model_config(path);
  return one_size(config, fs::weakly_canonical(path).filename().string(),
                  weights ? read_quantization(path, config) : std::nullopt);
}

std::vector<AskedQuantization> possible_quantizations(const DescribedModel& model,
                                                      const Size& size) {
  std::vector<AskedQuantization> all;
  const std::vector<bool> quantized = quantized_parameters(model.config);
  if (model.quantization || std::ranges::find(quantized, true) == quantized.end()) return all;
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4}) {
    AskedQuantization& one =
        all.emplace_back(AskedQuantization{.quantization = unit_scales(model.config, format)});
    try {
      check_quantizable(model.config, format, size.widths, size.name);
    } catch (const Error& e) {
      one.refused = e.what();
    }
  }
  return all;
}

CountedModel::CountedModel(const ModelConfig& parent, const Widths& widths,
                           const std::optional<Quantization>& q, Precision precision, Device device,
                           Context* real)
    : config_(cut_config(parent, widths)),
      precision_(precision),
      device_(device),
      real_(real),
      weights_(config_, Device::kNull,
               {.compute = precision.compute, .quantization = sized(parent, widths, q)}) {
  const bool codes_stay = q && device == Device::kCpu;  // LoadedModel reads them where they stay
  if (precision.compute == DType::kBF16 && !codes_stay) weights_.drop_masters();
}

Context CountedModel::context() const {
  return real_ != nullptr && real_->code() == Device::kCuda ? Context::rehearsal_of(*real_)
                                                            : Context(Device::kNull);
}

int64_t CountedModel::weight_bytes() const {
  const Weights::Bytes b = weights_.allocated();
  return b.masters + b.low + b.codes;
}

// A parameter without a master is read in f32 and rounded to bf16 beside the weights (Weights::fill).
int64_t CountedModel::opening_bytes() const {
  int64_t most = 0;
  if (device_ != Device::kCpu) return most;
  for (int64_t i = 0; i < weights_.count(); ++i)
    if (!weights_.master(i) && !weights_.codes(i))
      most = std::max(most, weights_.specs()[static_cast<size_t>(i)].size());
  return most * (dtype_bytes(DType::kF32) + dtype_bytes(DType::kBF16));
}

DecodeState CountedModel::state(int64_t sequences, int64_t tokens) {
  return {Device::kNull, config_, weights_.params(), sequences, tokens, precision_.activations};
}

int64_t CountedModel::cache_bytes(int64_t sequences, int64_t tokens) {
  return state(sequences, tokens).bytes();
}

int64_t CountedModel::step_bytes(int64_t sequences) const {
  return sequences * (config_.hidden + config_.vocab) * dtype_bytes(DType::kF32);
}

int64_t CountedModel::forward_bytes(const std::vector<int32_t>& offsets, bool echo) {
  Context ctx = context();
  Arena arena(Device::kNull);
  const int64_t tokens = offsets.back();
  const DecodeState cache = state(std::ssize(offsets) - 1, tokens);
  const Tensor ids(Device::kNull, DType::kI32, {tokens});
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config_,
               .segments = Segments(offsets),
               .save = false,
               .activations = precision_.activations};
  const auto params = weights_.params();
  const ModelActs acts = model_forward(run, params, ids, &cache.caches());
  if (echo) {
    const int64_t shown = std::min(tokens, kLogitTokens);
    const View logits = arena.alloc(DType::kF32, {shown, config_.vocab});
    model_logits(ctx, params, acts.final_norm.normed.prefix(0, shown), logits);
  }
  return arena.peak_bytes() + ctx.scratch().peak_bytes();
}

int64_t CountedModel::prefill_bytes(int64_t tokens) {
  return forward_bytes({0, static_cast<int32_t>(tokens)}, false);
}

// One token of each sequence, all caches full.
int64_t CountedModel::drawing_bytes(int64_t sequences, int64_t tokens) {
  Context ctx = context();
  const DecodeState cache = state(sequences, tokens);
  const std::vector<int32_t> lengths(static_cast<size_t>(sequences), static_cast<int32_t>(tokens));
  const std::vector<uint64_t> streams(static_cast<size_t>(sequences), 0);
  const Tensor ids(Device::kNull, DType::kI32, {sequences});
  Tensor normed(Device::kNull, DType::kF32, {sequences, config_.hidden});
  Tensor logits(Device::kNull, DType::kF32, {sequences, config_.vocab});
  const auto params = weights_.params();
  StepRun run{.ctx = ctx, .config = config_, .lengths = lengths};
  model_step(run, params, ids, cache.caches(), normed);
  model_logits(ctx, params, normed, logits);
  return ctx.scratch().peak_bytes();
}

int64_t CountedModel::serving_bytes(int64_t sequences, int64_t tokens) {
  std::vector<int32_t> split = {0};
  const int64_t prompts = std::min(sequences, tokens);
  for (int64_t i = 1; i <= prompts; ++i)
    split.push_back(static_cast<int32_t>(tokens * i / prompts));
  return std::max({forward_bytes({0, static_cast<int32_t>(tokens)}, true),
                   forward_bytes(split, true), drawing_bytes(sequences, tokens)});
}

}  // namespace nestling
