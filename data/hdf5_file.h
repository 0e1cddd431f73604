// hdf5_file.h - HDF5 files whose every byte is under a checksum: written whole (data/hdf5_writer.h),
// read by prefixes.
//
// Format        HDF5, library format `latest`: superblock and all metadata carry HDF5's own checksums.
//               A dataset is 1 to 3 dimensions in chunks without filters, and has an attribute
//               `crc32c` [chunks] u32: the CRC-32C of each chunk's bytes, chunks in row-major order of
//               their place. An empty dataset has a null dataspace. bf16 is an IEEE-like 16-bit float
//               (sign 1, exponent 8 with bias 127, mantissa 7), so other readers see numbers.
// Chunks        divide their dataset's extents exactly. Reading a prefix reads the chunks it touches
//               and nothing else; each is verified against its CRC on every read.
// Memory        no more than a chunk beside the views. What a header claims is compared with the size
//               of the file before anything is allocated.
// Atomic        a writer writes aside; commit() syncs and renames (data/atomic_file.h).
// Errors        whatever is wrong with a file: Error of kind kInput naming file and object. HDF5 prints
//               nothing.
// Threads       one thread at a time, over all files of the process: the library keeps global state.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/hdf5_id.h"
#include "kernels/core/view.h"

namespace nestling {

using Shape = std::vector<int64_t>;

class Hdf5File;

// Whether it begins as an HDF5 file does, sound or not.
bool is_hdf5(const std::filesystem::path& file);

// An open dataset; borrows its file.
class Hdf5Dataset {
 public:
  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Shape& chunk() const { return chunk_; }  // empty for an empty dataset
  int64_t bytes() const;                         // of all elements
  const std::vector<uint32_t>& checksums() const { return checksums_; }  // of its chunks
  // Bytes of the chunks that a prefix of these extents touches.
  int64_t prefix_bytes(const Shape& extents) const;
  // Reads the prefix that has the view's extents: a CPU view of the same type, or f32 from bf16.
  void read(View out) const;
  void verify() const;  // reads every chunk

 private:
  friend class Hdf5File;
  Hdf5Dataset(Hdf5File& file, const std::string& name);
  void read_layout();
  void read_checksums();
  void load_chunk(const Shape& at, std::vector<std::byte>& bytes) const;  // and verify it
  uint32_t checksum_of(const Shape& at) const;
  [[noreturn]] void fail(const std::string& what) const;

  Hdf5File* file_;
  std::string name_;
  detail::Hdf5Id id_;
  DType dtype_ = DType::kU8;
  Shape shape_, chunk_;
  std::vector<uint32_t> checksums_;
};

class Hdf5File {
 public:
  explicit Hdf5File(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }  // of the file
  bool has(const std::string& name) const;
  bool is_group(const std::string& name) const;
  std::vector<std::string> names(const std::string& group) const;  // of what it holds, sorted
  bool has_attribute(const std::string& object, const std::string& key) const;
  std::string text_attribute(const std::string& object, const std::string& key) const;
  int64_t integer_attribute(const std::string& object, const std::string& key) const;
  double number_attribute(const std::string& object, const std::string& key) const;
  Hdf5Dataset dataset(const std::string& name) { return Hdf5Dataset(*this, name); }
  std::string text(const std::string& name);
  int64_t bytes_read() const { return bytes_read_; }  // of chunks, so far
  [[noreturn]] void fail(const std::string& object, const std::string& what) const;

 private:
  friend class Hdf5Dataset;
  detail::Hdf5Id open_object(const std::string& name) const;
  void check_hard(const std::string& name) const;
  detail::Hdf5Id open_attribute(const std::string& object, const std::string& key) const;
  void read_number(const std::string& object, const std::string& key, DType dtype, void* out) const;
  std::filesystem::path path_;
  int64_t size_ = 0;
  int64_t bytes_read_ = 0;
  detail::Hdf5Id file_;
};

}  // namespace nestling
