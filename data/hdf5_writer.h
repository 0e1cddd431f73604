// hdf5_writer.h - writes an HDF5 file as data/hdf5_file.h describes it; that header is the contract.
//
// Atomic        bytes go to "<path>.tmp.<pid>"; commit() syncs, renames, syncs the folder. Without it
//               the destructor removes what was written aside.
// Amended       a file that is there can be copied aside first and given more; its datasets stay the bytes they are.
// Determinism   the same calls give the same bytes: no time is stored.
// Errors        of the system or the library: Error of kind kRuntime naming file and object.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/hdf5_id.h"
#include "kernels/core/view.h"

namespace nestling {

using Shape = std::vector<int64_t>;

class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& file);
  static Hdf5Writer amend(const std::filesystem::path& file);  // one that is there
  ~Hdf5Writer();
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  // Names are absolute ("/weights/x"); the groups on the way are made.
  void group(const std::string& name);
  void remove(const std::string& name);  // with all it holds; absent: nothing
  void attribute(const std::string& object, const std::string& key, std::string_view value);
  void attribute(const std::string& object, const std::string& key, int64_t value);
  void attribute(const std::string& object, const std::string& key, double value);
  // A CPU view of f32, bf16, f64, i64, i32 or u8; f32 may be stored as bf16 (rounded to nearest).
  void dataset(const std::string& name, DType stored, ConstView view, const Shape& chunk);
  void text(const std::string& name, std::string_view bytes);  // u8 [n]
  void commit();

 private:
  enum class Start : uint8_t { kEmpty, kCopy };
  Hdf5Writer(const std::filesystem::path& file, Start start);
  void put_attribute(const std::string& object, const std::string& key, int64_t type,
                     const Shape& shape, const void* data);
  void write_chunks(const detail::Hdf5Id& dataset, const std::string& name, DType stored,
                    ConstView view, const Shape& chunk);
  std::filesystem::path path_, aside_;
  detail::Hdf5Id file_;
};

}  // namespace nestling
