// parent.h - a model as it was published, to be trained from: a Hugging Face directory or a GGUF file.
// The one place that tells them apart for whatever trains.
//
// Weights       numbers: NVFP4 and FP8 codes are refused.
// Errors        kInput naming file and what is missing, extra, damaged or not supported, before memory
//               is taken for weights.
// Threads       const; one at a time on a ParameterSource.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "data/tokenizer.h"
#include "model/elastic_file.h"
#include "model/order.h"
#include "model/weights.h"

namespace nestling {

class Parent {
 public:
  // Throws kInput where `path` is neither; `key` of a config stands in the message. Reads nothing.
  Parent(const std::filesystem::path& path, const std::string& key);

  // Of a directory config.json is enough.
  ModelConfig architecture() const;
  // The same, checked against the tensors.
  ModelConfig config() const;
  // Fills the masters, with `order` their units in that order, and refreshes the low copies.
  void import(const ModelConfig& config, Weights& weights, const Order* order = nullptr) const;
  // One parameter after another, for write_elastic(); `order` must outlive it.
  ParameterSource parameters(const ModelConfig& config, const Order* order) const;

  // "crc32c:..." of the weights; of what says the architecture, in a GGUF file the weights' own.
  std::string weights_digest() const;
  std::string config_digest() const;

  std::map<std::string, std::string> tokenizer_files() const;
  std::string name() const;     // of the directory, or of the file without its ending
  std::string licence() const;  // as it states it, or empty

 private:
  std::filesystem::path path_;
  bool gguf_;
};

// Of a GGUF file, or of what Tokenizer takes.
Tokenizer open_tokenizer(const std::filesystem::path& path);

}  // namespace nestling
