#include "model/huggingface.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>
#include <nlohmann/json.hpp>
#include <set>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "data/safetensors.h"
#include "data/safetensors_writer.h"
#include "data/widen.h"
#include "model/interleave.h"

namespace nestling {

namespace {

// The hub's spelling of a tensor's name.
std::string canonical_name(std::string name) {
  if (name.starts_with("model.")) name = "backbone." + name.substr(6);
  if (name == "backbone.embedding.weight") name = "backbone.embeddings.weight";
  return name;
}

// The tensors of a directory under their canonical names, and which of them were used.
class Source {
 public:
  Source(const std::filesystem::path& directory, const ModelConfig& config) : files_(directory) {
    for (const StoredTensor* tensor : files_.tensors()) {
      const std::string name = canonical_name(tensor->name);
      if (name.starts_with("mtp.") || (config.tied && name == "lm_head.weight")) continue;
      const bool fresh = by_name_.emplace(name, tensor).second;
      NESTLING_CHECK_INPUT(fresh, tensor->file, ": tensor ", tensor->name,
                           " is there twice under different names");
    }
  }
  const StoredTensor* find(const std::string& name) {
    const auto at = by_name_.find(name);
    if (at == by_name_.end()) return nullptr;
    used_.insert(name);
    return at->second;
  }
  const StoredTensor& need(const std::string& name, const std::vector<int64_t>& shape) {
    const StoredTensor* tensor = find(name);
    NESTLING_CHECK_INPUT(tensor != nullptr, files_.path().string(), ": tensor ", name,
                         " is missing");
    NESTLING_CHECK_INPUT(tensor->shape == shape, tensor->describe(), ": config.json asks for ",
                         extents(shape));
    NESTLING_CHECK_INPUT(tensor->type == StoredType::kBF16 || tensor->type == StoredType::kF16 ||
                             tensor->type == StoredType::kF32,
                         tensor->describe(), ": needs BF16, F16 or F32");
    return *tensor;
  }
  void check_all_used() const {
    for (const auto& [name, tensor] : by_name_)
      NESTLING_CHECK_INPUT(used_.contains(name), tensor->file, ": tensor ", tensor->name,
                           " belongs to no layer of config.json");
  }

 private:
  static std::string extents(const std::vector<int64_t>& shape) {
    std::string s = "[";
    for (size_t d = 0; d < shape.size(); ++d) s += (d ? "," : "") + std::to_string(shape[d]);
    return s + "]";
  }
  SafetensorsDir files_;
  std::map<std::string, const StoredTensor*> by_name_;
  std::set<std::string> used_;
};

// Rows [first_row, first_row + spec rows) of one published matrix into memory order.
void read_matrix(const StoredTensor& tensor, int64_t first_row, const ParameterSpec& spec,
                 const PublishedMatrix& m, float* out) {
  const int64_t item = stored_bits(tensor.type) / 8;
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    const int64_t from = first_row + published_index(spec.rows, m.rows, r);
    const auto bytes = tensor.bytes.subspan(static_cast<size_t>(from * m.cols * item),
                                            static_cast<size_t>(m.cols * item));
    if (tensor.type == StoredType::kF32)
      std::memcpy(row.data(), bytes.data(), bytes.size());
    else
      widen_to_float(tensor.type, bytes, row.data());
    for (int64_t c = 0; c < m.cols; ++c) {
      const float value = row[static_cast<size_t>(published_index(spec.cols, m.cols, c))];
      NESTLING_CHECK_INPUT(std::isfinite(value), tensor.describe(), ": element ", from * m.cols + c,
                           " is ", value);
      out[r * m.cols + c] = value;
    }
  }
}

// fn(tensor, its first row, expert) of every expert, which are stored one by one or, as
// transformers keeps them in memory, stacked in one tensor.
template <class Fn>
void each_expert(Source& source, const ParameterSpec& spec, const Fn& fn) {
  const PublishedMatrix m = published_matrix(spec);
  std::string joined = spec.published;
  joined.erase(joined.find("{e}."), 4);
  const std::string bare = joined.substr(0, joined.size() - std::string(".weight").size());
  for (const std::string& name : {joined, bare}) {
    if (source.find(name) == nullptr) continue;
    const StoredTensor& all =
        source.need(name, {m.count, spec.published_shape[0], spec.published_shape[1]});
    for (int64_t e = 0; e < m.count; ++e) fn(all, e * m.rows, e);
    return;
  }
  for (int64_t e = 0; e < m.count; ++e)
    fn(source.need(spec.published_of(e), spec.published_shape), 0, e);
}

// fn(tensor, first row in it, expert) of all that a parameter is read from.
template <class Fn>
void each_source(Source& source, const ParameterSpec& spec, const Fn& fn) {
  if (spec.stacked()) return each_expert(source, spec, fn);
  fn(source.need(spec.published, spec.published_shape), spec.row_begin, 0);
}

void narrow(StoredType type, const std::vector<float>& row, std::vector<std::byte>& out) {
  const auto put = [&](auto convert) {
    using Item = decltype(convert(0.0f));
    out.resize(row.size() * sizeof(Item));
    for (size_t i = 0; i < row.size(); ++i) {
      const Item item = convert(row[i]);
      std::memcpy(out.data() + i * sizeof(Item), &item, sizeof(Item));
    }
  };
  switch (type) {
    case StoredType::kF32:
      return put([](float x) { return x; });
    case StoredType::kBF16:
      return put([](float x) { return bf16(x).bits; });
    case StoredType::kF16:
      return put([](float x) { return static_cast<uint16_t>(_cvtss_sh(x, 0)); });
    default:
      throw Error(str("export as ", stored_name(type), ": needs BF16, F16 or F32"));
  }
}

// One published tensor and the parameters that are its rows.
struct Published {
  std::vector<int64_t> parts;  // indices into the list, by rising row
  int64_t expert = 0;
};

// Published row `row` of the tensor, in published column order.
void gather_row(const Weights& weights, const Published& p, int64_t row, std::vector<float>& out) {
  for (int64_t index : p.parts) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(index)];
    const PublishedMatrix m = published_matrix(spec);
    const int64_t inside = row - spec.row_begin;
    if (inside < 0 || inside >= m.rows) continue;
    const float* matrix = weights.master(index).ptr<float>() + p.expert * m.rows * m.cols;
    const float* from = matrix + memory_index(spec.rows, m.rows, inside) * m.cols;
    for (int64_t c = 0; c < m.cols; ++c)
      out[static_cast<size_t>(published_index(spec.cols, m.cols, c))] = from[c];
    return;
  }
  throw Error(str("row ", row, " of a published tensor belongs to no parameter"));
}

StoredType type_of(const ExportOptions& options, const std::string& name,
                   const ParameterSpec& spec) {
  const auto at = options.types.find(name);
  return at != options.types.end() ? at->second : published_type(spec, options.type);
}

TensorToStore to_store(const Weights& weights, const std::string& name, const Published& p,
                       StoredType type) {
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(p.parts.front())];
  TensorToStore t{.name = name, .type = type, .shape = spec.published_shape, .produce = {}};
  t.produce = [&weights, p, type, shape = spec.published_shape](const ByteSink& sink) {
    const int64_t rows = shape[0];
    int64_t cols = 1;
    for (size_t d = 1; d < shape.size(); ++d) cols *= shape[d];
    std::vector<float> row(static_cast<size_t>(cols));
    std::vector<std::byte> bytes;
    for (int64_t r = 0; r < rows; ++r) {
      gather_row(weights, p, r, row);
      narrow(type, row, bytes);
      sink(bytes);
    }
  };
  return t;
}

}  // namespace

StoredType published_type(const ParameterSpec& spec, StoredType type) {
  const bool sensitive = !spec.trained || spec.init == Init::kALog || spec.init == Init::kDtBias;
  return sensitive ? StoredType::kF32 : type;
}

ModelConfig read_weights_config(const std::filesystem::path& directory) {
  ModelConfig config = read_model_config(directory);
  Source source(directory, config);
  for (const ParameterSpec& spec : parameter_list(config))
    each_source(source, spec, [](const StoredTensor&, int64_t, int64_t) {});
  source.check_all_used();
  return config;
}

PublishedTypes import_weights(const std::filesystem::path& directory, const ModelConfig& config,
                              Weights& weights) {
  if (weights.device() != Device::kCpu) {
    Weights host(config, Device::kCpu, {});
    PublishedTypes types = import_weights(directory, config, host);
    Context ctx(weights.device());
    weights.take_masters(ctx, host);
    return types;
  }
  Source source(directory, config);
  PublishedTypes types;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    const PublishedMatrix m = published_matrix(spec);
    auto* out = weights.master(i).ptr<float>();
    each_source(source, spec, [&](const StoredTensor& tensor, int64_t row, int64_t expert) {
      read_matrix(tensor, row, spec, m, out + expert * m.rows * m.cols);
      types[spec.published_of(expert)] = tensor.type;
    });
  }
  source.check_all_used();
  Context ctx(Device::kCpu);
  weights.refresh_low(ctx);
  return types;
}

void export_weights(const std::filesystem::path& directory, const ModelConfig& config,
                    const Weights& weights, const ExportOptions& options) {
  if (weights.device() != Device::kCpu)
    return export_weights(directory, config, weights.on(Device::kCpu, DType::kF32), options);
  std::vector<std::pair<std::string, Published>> order;  // as the list goes
  std::map<std::string, size_t> place;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    for (int64_t e = 0; e < published_matrix(spec).count; ++e) {
      const std::string name = spec.published_of(e);
      const auto [at, fresh] = place.emplace(name, order.size());
      if (fresh) order.push_back({name, {.parts = {}, .expert = e}});
      order[at->second].second.parts.push_back(i);
    }
  }
  std::vector<TensorToStore> tensors;
  for (const auto& [name, p] : order) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(p.parts.front())];
    tensors.push_back(to_store(weights, name, p, type_of(options, name, spec)));
  }
  write_safetensors_dir(directory, std::move(tensors), options.max_shard_bytes);
  write_json(directory / "config.json", model_config_json(config, options.type));
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
