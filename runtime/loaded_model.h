// loaded_model.h - a model directory opened for running: config, weights, tokenizer.
//
// Ownership     owns everything; views of params() live as long as it does.
// Precision     weights as stored, widened to f32, or rounded to bf16 for the products.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>

#include "data/tokenizer.h"
#include "model/huggingface.h"
#include "model/weights.h"

namespace nestling {

class LoadedModel {
 public:
  // `directory`: a Hugging Face directory. The tokenizer is optional: token-id models have none.
  LoadedModel(const std::filesystem::path& directory, DType compute);

  const ModelConfig& config() const { return config_; }
  const std::string& name() const { return name_; }
  ModelParams<ConstView> params() { return weights_.params(); }
  Weights& weights() { return weights_; }
  const Tokenizer& tokenizer() const;  // throws kInput where the directory has none

 private:
  std::filesystem::path directory_;
  std::string name_;
  ModelConfig config_;
  Weights weights_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace nestling
