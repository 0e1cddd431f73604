// safetensors.h - reading safetensors: one file, or a published directory of shards.
//
// Format        u64 little-endian header length N, N bytes of JSON, then the tensors' bytes,
//               row-major little-endian. Source: huggingface/safetensors, README "Format" and
//               tensor.rs.
// Memory        files are mapped; a StoredTensor borrows from the SafetensorsFile or -Dir it came
//               from. Nothing is read before it is touched.
// Checks        on opening: header length, JSON, keys (none unknown, none twice), types, shapes and
//               their products, offsets (in range, no hole, no overlap, every byte owned), file
//               size; for a directory: index and shards name the same tensors in the same files.
// Errors        Error of kind kInput naming file and tensor. No input crashes or allocates more
//               than in proportion to the file.
// Alignment     a file may put a tensor at any byte. view() throws where that forbids typed access;
//               read() always works.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/mapped_file.h"
#include "data/stored_type.h"
#include "kernels/core/view.h"

namespace nestling {

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape;        // empty: a scalar
  std::span<const std::byte> bytes;  // borrowed
  std::string file;                  // for messages

  int64_t size() const;          // elements
  std::string describe() const;  // "model.safetensors: lm_head.weight BF16 [64,32]"

  // The bytes as a dense view (a scalar as [1]). Throws kInput if kernels have no such type, the
  // rank exceeds 4, or the bytes are not aligned to the element.
  ConstView view() const;
  // Copies into a CPU view of the same shape (a scalar into [1]) and of the same type, or of kF32
  // from BF16, F16 or F8_E4M3 (exact). Gaps of a pitched view are kept. Throws kInput otherwise.
  void read(View out) const;
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const StoredTensor* find(std::string_view name) const;  // nullptr if absent
  const StoredTensor& at(std::string_view name) const;    // throws kInput if absent

 private:
  MappedFile file_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A directory with model.safetensors, or with model.safetensors.index.json and the shards it names.
// Both at once are refused: they could disagree.
class SafetensorsDir {
 public:
  explicit SafetensorsDir(const std::filesystem::path& directory);

  const std::filesystem::path& path() const { return directory_; }
  std::vector<const StoredTensor*> tensors() const;  // sorted by name
  size_t size() const { return by_name_.size(); }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const StoredTensor* find(std::string_view name) const;
  const StoredTensor& at(std::string_view name) const;

 private:
  void open_index(const std::filesystem::path& index);
  void add_shard(const std::string& name, const std::map<std::string, std::string>& home);
  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const StoredTensor*, std::less<>> by_name_;
};

inline constexpr const char* kSafetensorsName = "model.safetensors";
inline constexpr const char* kSafetensorsIndexName = "model.safetensors.index.json";

}  // namespace nestling
