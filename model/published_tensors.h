// published_tensors.h - the tensors of a Hugging Face directory under their canonical names, and which of them were used.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>

#include "data/safetensors.h"
#include "model/config.h"
#include "model/parameters.h"

namespace nestling {

class PublishedTensors {
 public:
  // Errors of kind kInput name file and tensor, here and below.
  PublishedTensors(const std::filesystem::path& directory, const ModelConfig& config);

  const std::string& directory() const { return directory_; }
  bool has(const std::string& name) const { return by_name_.contains(name); }
  // Marks it used; null where it is missing.
  const StoredTensor* find(const std::string& name);
  const StoredTensor& need(const std::string& name, const std::vector<int64_t>& shape);
  void pass_over(bool (*is_one)(const std::string& name));  // those need not be used
  void check_all_used() const;

  // fn(tensor, first row in it, expert) of all that a parameter is read from: experts are stored one by one or, as
  // transformers keeps them in memory, stacked in one tensor. `shape`: of one of them, rows and columns.
  using Fn = std::function<void(const StoredTensor&, int64_t row, int64_t expert)>;
  void each_of(const ParameterSpec& spec, const Fn& fn);

 private:
  void each_expert(const ParameterSpec& spec, const Fn& fn);
  SafetensorsDir files_;
  std::string directory_;
  std::map<std::string, const StoredTensor*> by_name_;
  std::set<std::string> used_;
};

// Of a tensor that holds numbers: BF16, F16 or F32, or it is refused.
void check_numbers(const StoredTensor& tensor);

}  // namespace nestling
