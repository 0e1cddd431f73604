#include "runtime/loaded_model.h"

namespace nestling {

LoadedModel::LoadedModel(const std::filesystem::path& directory, DType compute)
    : directory_(directory),
      name_(std::filesystem::weakly_canonical(directory).filename().string()),
      config_(read_model_config(directory)),
      weights_(config_, Device::kCpu, {.compute = compute}) {
  import_weights(directory, config_, weights_);
  if (!std::filesystem::exists(directory / "tokenizer.json")) return;
  tokenizer_.emplace(directory);
  NESTLING_CHECK_INPUT(tokenizer_->vocab_size() <= config_.vocab, directory.string(),
                       ": tokenizer.json has ids up to ", tokenizer_->vocab_size() - 1,
                       ", config.json a vocab_size of ", config_.vocab);
}

const Tokenizer& LoadedModel::tokenizer() const {
  NESTLING_CHECK_INPUT(tokenizer_.has_value(), directory_.string(), ": no tokenizer.json");
  return *tokenizer_;
}

}  // namespace nestling
