#include "runtime/import_directory.h"

#include <algorithm>

#include "data/atomic_file.h"
#include "data/model_files.h"
#include "model/elastic_file.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "model/published_numbers.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// Layers that more sizes keep first; the others as they lie.
std::vector<int64_t> depth_order(const ModelConfig& config, const std::vector<Size>& sizes) {
  std::vector<int64_t> keep(static_cast<size_t>(config.layers()), 0);
  for (const Size& s : sizes)
    for (size_t l = 0; l < keep.size(); ++l) keep[l] += s.widths.layers[l].kept;
  std::vector<int64_t> order = identity_order(config).depth;
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return keep[static_cast<size_t>(a)] > keep[static_cast<size_t>(b)];
  });
  return order;
}

ElasticModel elastic_model(const fs::path& directory, const ModelConfig& config,
                           const ImportOptions& options) {
  ElasticModel m{.config = config,
                 .sizes = options.sizes,
                 .order = identity_order(config),
                 .scores = {},
                 .router = {},
                 .tokenizer = read_tokenizer_files(directory),
                 .provenance = options.provenance};
  m.order.depth = depth_order(config, options.sizes);
  m.provenance[provenance::kParent] = fs::weakly_canonical(directory).filename().string();
  m.provenance[provenance::kParentDigest] = digest_of_weights(directory);
  m.provenance[provenance::kParentLicence] = licence_of(directory);
  return m;
}

// The precision of the file; the names of what it rounds into `rounded`.
StoredType precision_of(PublishedTensors& tensors, const ModelConfig& config,
                        const std::optional<Quantization>& q, const ImportOptions& o,
                        std::vector<std::string>& rounded) {
  const StoredType type = o.precision.value_or(StoredType::kBF16);
  for (const StoredTensor* tensor : rounded_tensors(tensors, config, q, type)) {
    NESTLING_CHECK_INPUT(o.precision, tensor->describe(),
                         ": a file in BF16 would round it; --precision fp32 keeps every bit, "
                         "--precision bf16 rounds");
    rounded.push_back(tensor->name);
  }
  return type;
}

// One parameter at a time.
void write_numbers(const fs::path& file, const ElasticModel& model, PublishedTensors& tensors,
                   StoredType precision, const ImportOptions& o) {
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  int64_t all = 0, done = 0;
  for (const ParameterSpec& spec : specs) all += spec.size();
  const ParameterSource source = published_parameters(tensors, model.config);
  const auto next = [&](int64_t i) {
    if (o.progress && i > 0) o.progress(done, all);
    done += specs[static_cast<size_t>(i)].size();
    return source(i);
  };
  write_elastic(file, model, ParameterSource(next), precision);
}

}  // namespace

std::vector<std::string> import_directory(const fs::path& directory, const fs::path& file,
                                          const ImportOptions& o) {
  check_target(file);
  const ModelConfig config = read_weights_config(directory);
  PublishedTensors tensors(directory, config);
  const std::optional<Quantization> q = read_quantization(directory, config);
  std::vector<std::string> rounded;
  const StoredType precision = precision_of(tensors, config, q, o, rounded);
  const ElasticModel model = elastic_model(directory, config, o);
  if (q) {
    Weights weights(config, Device::kCpu, {.quantization = q});
    import_weights(directory, config, weights);
    write_elastic(file, model, weights, precision);
    return rounded;
  }
  write_numbers(file, model, tensors, precision, o);
  return rounded;
}

}  // namespace nestling
