// checkpoint_manifest.h - what manifest.json of a checkpoint says, and that it was said whole.
//
// JSON. The field manifest_crc32c is the CRC-32C of the file's bytes with that field's eight digits
// as zeros, so that every byte of the file is covered. The runs of a rank lie in its rank-R.state in the order
// of the list, dense, without gaps; their CRC-32C cover every byte of it.
// Versions      1, which had one file of whole tensors, is read.
// Errors        whatever is not as written: Error of kind kInput naming the file.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/json.h"
#include "trainer/checkpoint.h"

namespace nestling {

// A run of a tensor's elements in the file of a rank.
struct SavedRun {
  std::string name;
  std::string dtype;           // dtype_name
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t begin = 0;           // elements
  int64_t count = 0;
  int64_t bytes = 0;
  int64_t rank = 0;
  std::string crc32c;  // 8 hexadecimal digits
};

struct CheckpointManifest {
  CheckpointMeta meta;
  std::vector<SavedRun> runs;  // of rank after rank
};

inline constexpr const char* kManifestFile = "manifest.json";
std::string state_file_name(int64_t rank);  // "rank-0.state"

std::string manifest_text(const CheckpointManifest& manifest);
CheckpointManifest read_manifest(const std::filesystem::path& checkpoint);

// The list of some runs by itself, as ranks hand it to rank 0.
std::string runs_text(const std::vector<SavedRun>& runs);
std::vector<SavedRun> parse_runs(const std::string& text);

}  // namespace nestling
