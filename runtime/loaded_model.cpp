#include "runtime/loaded_model.h"

#include "model/huggingface.h"

namespace nestling {

LoadedModel::Opened LoadedModel::open_directory(const std::filesystem::path& path, DType compute) {
  const ModelConfig config = read_model_config(path);
  Opened o{.config = config,
           .weights = Weights(config, Device::kCpu, {.compute = compute}),
           .names = {std::filesystem::weakly_canonical(path).filename().string()},
           .widths = {full_widths(config)},
           .tokenizer = {}};
  import_weights(path, config, o.weights);
  if (std::filesystem::exists(path / "tokenizer.json")) o.tokenizer.emplace(path);
  return o;
}

LoadedModel::Opened LoadedModel::open_elastic(const std::filesystem::path& path, DType compute,
                                              const std::string& size) {
  ElasticFacts facts = read_elastic_facts(path);
  LoadedSize loaded =
      size.empty() ? load_elastic_whole(path, compute) : load_elastic(path, size, compute);
  Opened o{.config = loaded.config,
           .weights = std::move(loaded.weights),
           .names = {},
           .widths = {},
           .tokenizer = {},
           .bytes_read = loaded.bytes_read};
  if (!size.empty()) {
    o.names = {size};
    o.widths = {full_widths(o.config)};
  } else {
    for (Size& s : facts.sizes) {
      o.names.push_back(s.name);
      o.widths.push_back(std::move(s.widths));
    }
  }
  if (const auto at = facts.tokenizer.find("tokenizer.json"); at != facts.tokenizer.end())
    o.tokenizer.emplace(at->second, path.string() + ": /tokenizer/tokenizer.json");
  return o;
}

LoadedModel::Opened LoadedModel::open(const std::filesystem::path& path, DType compute,
                                      const std::string& size) {
  NESTLING_CHECK_INPUT(std::filesystem::exists(path), path.string(), ": not found");
  if (!std::filesystem::is_directory(path)) return open_elastic(path, compute, size);
  Opened o = open_directory(path, compute);
  NESTLING_CHECK_INPUT(size.empty() || size == o.names[0], path.string(), ": no size '", size,
                       "'; a directory has one size, ", o.names[0]);
  return o;
}

LoadedModel::LoadedModel(const std::filesystem::path& path, DType compute, const std::string& size)
    : LoadedModel(path, open(path, compute, size)) {}

LoadedModel::LoadedModel(const std::filesystem::path& path, Opened o)
    : path_(path),
      name_(std::filesystem::weakly_canonical(path).filename().string()),
      config_(std::move(o.config)),
      weights_(std::move(o.weights)),
      names_(std::move(o.names)),
      widths_(std::move(o.widths)),
      tokenizer_(std::move(o.tokenizer)),
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

ModelParams<ConstView> LoadedModel::params() {
  return prefix_parameters(config_, widths_[selected_], weights_.params());
}

void LoadedModel::select(const std::string& size) {
  std::string known;
  for (size_t s = 0; s < names_.size(); ++s) {
    if (names_[s] == size) {
      selected_ = s;
      return;
    }
    known += (s ? ", " : "") + names_[s];
  }
  throw Error(str(path_.string(), ": no size '", size, "'; there are ", known), ErrorKind::kInput);
}

ParameterCost LoadedModel::cost() const {
  return parameter_cost(config_, widths_[selected_]);
}

}  // namespace nestling
