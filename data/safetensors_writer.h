// safetensors_writer.h - writing safetensors as the official writer does, byte for byte.
//
// Order         by type (descending alignment), then name; header padded with spaces to 8 bytes;
//               `__metadata__` {"format":"pt"} unless told otherwise.
// Memory        a tensor hands its bytes over in pieces when its turn comes, so that no more than a
//               piece is ever held.
// Atomic        each file is whole or absent; of a directory the index is written last.
// Errors        names twice, unrepresentable sizes, a producer that gives too few or too many
//               bytes, a directory that already holds weights: Error; nothing is left behind of the
//               file.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "data/produced_bytes.h"
#include "data/stored_type.h"
#include "kernels/core/view.h"

namespace nestling {

struct TensorToStore {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  ByteProducer produce;
};

// A CPU view (which must outlive the writing), row by row: gaps are left out.
TensorToStore store(std::string name, ConstView view);

using SafetensorsMetadata = std::map<std::string, std::string>;

void write_safetensors(const std::filesystem::path& file, std::vector<TensorToStore> tensors,
                       const SafetensorsMetadata& metadata = {{"format", "pt"}});

// model.safetensors, or, above max_shard_bytes, model-00001-of-0000N.safetensors and the index.
// Tensors fill shards in the order given; one larger than the limit gets a shard of its own.
void write_safetensors_dir(const std::filesystem::path& directory,
                           std::vector<TensorToStore> tensors,
                           int64_t max_shard_bytes = int64_t{5'000'000'000},
                           const SafetensorsMetadata& metadata = {{"format", "pt"}});

}  // namespace nestling
