// checkpoint_manifest.h - what manifest.json of a checkpoint says, and that it was said whole.
//
// JSON. The field manifest_crc32c is the CRC-32C of the file's bytes with that field's eight digits
// as zeros, so that every byte of the file is covered. The tensors lie in rank-0.state in the order
// of the list, dense, without gaps; their CRC-32C cover every byte of it.
// Errors        whatever is not as written: Error of kind kInput naming the file.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/checkpoint.h"

namespace nestling {

struct ManifestTensor {
  std::string name;
  std::string dtype;  // dtype_name
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  std::string crc32c;  // 8 hexadecimal digits
};

struct CheckpointManifest {
  CheckpointMeta meta;
  std::vector<ManifestTensor> tensors;
};

inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kStateFile = "rank-0.state";

std::string manifest_text(const CheckpointManifest& manifest);
CheckpointManifest read_manifest(const std::filesystem::path& checkpoint);

}  // namespace nestling
