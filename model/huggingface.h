// huggingface.h - models in and out as Hugging Face directories, exactly.
//
// Codes         FP8 and NVFP4 weights are read into weights that are made for them, and written of those that hold them.
// Import        config.json to a ModelConfig; published tensors to slot-major masters. Known
//               aliases of keys and tensor names are accepted. A tensor that is missing, extra, of the
//               wrong shape or type, or not finite is an Error of kind kInput naming file and tensor.
// Export        the hub's spelling and layout. A tensor is stored in the type it was read in, so
//               import and export give the same bytes; a fresh model is stored as the caller asks.
// Memory        rows are converted one by one: nothing larger than a row is held beside weights that are whole and on
//               the CPU. Into others one parameter after another is made on the host.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "data/json.h"
#include "data/stored_type.h"
#include "model/units.h"
#include "model/weights.h"

namespace nestling {

// config.json of `directory`. Unsupported features (biases, latent experts, dt limits, ...) are
// refused by name.
ModelConfig read_model_config(const std::filesystem::path& directory);
// The same of a directory whose weights are about to be read: the tensors it holds are those that
// config.json asks for, or it is refused, before memory is taken for what config.json says.
ModelConfig read_weights_config(const std::filesystem::path& directory);
// The same of a directory that is to be trained from: codes are refused.
ModelConfig read_parent_config(const std::filesystem::path& directory);
// The published form of a config, as transformers, vLLM and llama.cpp read it.
Json model_config_json(const ModelConfig& config, StoredType type);

// The same from JSON that is there; `where` stands in messages.
ModelConfig parse_model_config(JsonRef root, const std::string& where);

// The type a parameter is stored in where `type` is asked for: what steers a recurrence or a choice
// stays F32.
StoredType published_type(const ParameterSpec& spec, StoredType type);

// Type of every published tensor as it was stored.
using PublishedTypes = std::map<std::string, StoredType>;

// The scales of a directory whose weights are FP8 or NVFP4 codes (model/huggingface_codes.h); none: they are numbers.
std::optional<Quantization> read_quantization(const std::filesystem::path& directory,
                                              const ModelConfig& config);

// Fills the masters, with `order` (not of codes) their units in that order, and refreshes the low copies. Returns the types found.
PublishedTypes import_weights(const std::filesystem::path& directory, const ModelConfig& config,
                              Weights& weights, const Order* order = nullptr);

// "crc32c:..." of the directory's *.safetensors, one after another by name; of its config.json.
std::string digest_of_weights(const std::filesystem::path& directory);
std::string digest_of_config(const std::filesystem::path& directory);

struct ExportOptions {
  PublishedTypes types;                 // a name that is not here gets `type`
  StoredType type = StoredType::kBF16;  // buffers and vectors of heads are F32 unless in `types`
  int64_t max_shard_bytes = int64_t{5'000'000'000};
};
// Writes model.safetensors (or shards and index) and config.json into an existing directory.
void export_weights(const std::filesystem::path& directory, const ModelConfig& config,
                    const Weights& weights, const ExportOptions& options);

}  // namespace nestling
