// loaded_model.h - a model opened for running: config, weights, tokenizer.
//
// Sources       a Hugging Face directory or a GGUF file (model/gguf_import.h), which have one size; an
//               elastic file, of which one size is opened alone, reading its own bytes, or the whole,
//               of which every size is a view.
// Sizes         by name, or of an elastic file by budget ("65%", model/asked_size.h). select() changes
//               what params() gives: prefix views of the same weights, nothing is copied. config() stays that of the weights; widths are read off the views.
// Ownership     owns everything; views of params() live as long as it does.
// Precision     weights as stored, widened to f32, or rounded to bf16 for the products; what runs it hands
//               activations of this type from operator to operator, as training does. Weights that a file holds as
//               codes stay codes (model/weight.h): weights().quantization() says which.
#pragma once
#include <filesystem>
#include <map>
#include <optional>

#include "data/tokenizer.h"
#include "model/cost.h"
#include "model/elastic_file.h"
#include "model/weights.h"

namespace nestling {

// bf16 activations are of devices, and beside bf16 products.
struct Precision {
  // NOLINTNEXTLINE(google-explicit-constructor): products alone are a precision, with f32 between them
  Precision(DType of_products, DType of_activations = DType::kF32)
      : compute(of_products), activations(of_activations) {}
  DType compute;
  DType activations;  // between the operators of a layer, and of cached keys and values
};

class LoadedModel {
 public:
  // `size` names the one size to open of an elastic file; empty: the whole file, its largest size
  // selected. The tokenizer is optional: token-id models have none.
  // Weights go to `device` a parameter at a time; those of products in bf16 have no f32 masters, so 2 bytes a parameter
  // are all they take. Codes are read into host memory and go from there.
  LoadedModel(const std::filesystem::path& path, Precision precision, const std::string& size = "",
              Device device = Device::kCpu);

  const ModelConfig& config() const { return config_; }
  const std::string& name() const { return name_; }  // of the directory or file
  DType activations() const { return activations_; }
  ModelParams<Weight> params() { return params(selected_.widths); }  // of the selected size
  ModelParams<Weight> params(const Widths& widths);                  // of a size that find() gave
  Weights& weights() { return weights_; }
  // From now on products leave the largest |activation| of every parameter there (Weights::params); {}: no more.
  void watch_inputs(View largest) { largest_inputs_ = largest; }
  const Tokenizer& tokenizer() const;  // throws kInput where the model has none
  // Name to bytes, of kTokenizerFiles those that are there.
  const std::map<std::string, std::string>& tokenizer_files() const { return files_; }

  // Names of the sizes that were trained, largest first; a model of one size has its own name.
  std::vector<std::string> sizes() const;
  const std::string& size() const { return selected_.name; }
  const Size& selected() const { return selected_; }
  bool trained() const { return selected_.trained; }  // the selected size, by itself
  Size find(const std::string& size) const;           // throws kInput naming those there are
  void select(const std::string& size) { selected_ = find(size); }
  void select(Size found) { selected_ = std::move(found); }  // one that find() or selected() gave
  ParameterCost cost() const;                                // of the selected size
  int64_t bytes_read() const { return bytes_read_; }         // of an elastic file; else 0

 private:
  struct Opened {
    ModelConfig config;
    Weights weights;
    std::vector<Size> sizes;
    std::optional<Tokenizer> tokenizer;
    std::map<std::string, std::string> files;
    int64_t bytes_read = 0;
    bool whole = false;  // an elastic file, all of it
  };
  static Opened open(const std::filesystem::path& path, DType compute, const std::string& size,
                     Device device);
  static Opened open_directory(const std::filesystem::path& path, DType compute, Device device);
  static Opened open_gguf(const std::filesystem::path& path, DType compute, Device device);
  static Opened open_elastic(const std::filesystem::path& path, DType compute,
                             const std::string& size, Device device);
  LoadedModel(const std::filesystem::path& path, Opened opened);

  std::filesystem::path path_;
  std::string name_;
  ModelConfig config_;
  Weights weights_;
  DType activations_ = DType::kF32;
  std::vector<Size> sizes_;
  Size selected_;
  bool whole_;
  View largest_inputs_ = {};
  std::optional<Tokenizer> tokenizer_;
  std::map<std::string, std::string> files_;
  int64_t bytes_read_ = 0;
};

}  // namespace nestling
