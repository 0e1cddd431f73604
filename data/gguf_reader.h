// gguf_reader.h - reading GGUF files, versions 2 and 3: keys with their values, and tensors. Knows
// of no model.
//
// Layout        as in gguf_writer.h; general.alignment may say another than 32.
// Memory        the file is mapped; a GgufStored borrows from the GgufFile it came from. Values are
//               decoded when asked for; nothing of the tensors is read before it is touched.
// Checks        on opening: magic and version; counts, lengths and types of every key and tensor
//               against the file's size; no name twice; shapes, their products and whole blocks;
//               tensors in order, each at the first multiple of the alignment after the one before,
//               so that none overlaps another, as ggml asks; every byte of theirs in the file.
// Types         those of ggml_type.h. A tensor of another is refused by its name and the type's.
// Errors        kInput naming file and key or tensor. No input crashes, or allocates more than in
//               proportion to the file.
// Threads       const; may be read in many threads at once.
// Source        ggml/docs/gguf.md; ggml/src/gguf.cpp.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/ggml_type.h"
#include "data/gguf_format.h"
#include "data/mapped_file.h"

namespace nestling {

struct GgufStored {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;        // outermost first; the last is a row
  std::span<const std::byte> bytes;  // borrowed
  std::string file;                  // for messages

  std::string describe() const;                     // "m.gguf: token_embd.weight BF16 [64,32]"
  std::span<const std::byte> row(int64_t r) const;  // of all rows, the outer dimensions as one
};

class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  std::string name() const { return path().string(); }
  const std::vector<std::string>& keys() const { return key_order_; }
  bool has(std::string_view key) const { return values_.contains(key); }

  // The value of a key; kInput where it is missing or of another kind. Integers of every width.
  int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  bool flag(std::string_view key) const;
  std::string text(std::string_view key) const;  // UTF-8
  bool is_text(std::string_view key) const;
  bool is_array(std::string_view key) const;
  // Of an array.
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;
  int64_t length(std::string_view key) const;

  const std::vector<GgufStored>& tensors() const { return tensors_; }  // in order of their bytes
  const GgufStored* find(std::string_view name) const;                 // nullptr if absent

 private:
  struct Value {
    GgufType type = GgufType::kUint32;  // of an array: of its items
    bool array = false;
    uint64_t count = 1;
    std::span<const std::byte> bytes;
  };
  class Cursor;
  void read_keys(Cursor& in, uint64_t count);
  void read_tensors(Cursor& in, uint64_t count);
  GgufStored read_tensor(Cursor& in, uint64_t index) const;
  void place_tensors(std::vector<uint64_t> offsets, uint64_t header_end);
  uint64_t alignment() const;
  const Value& need(std::string_view key, bool array) const;
  template <class Fn>
  void each_text(std::string_view key, const Value& value, const Fn& fn) const;
  int64_t as_integer(std::string_view key, const Value& value, size_t item) const;

  MappedFile file_;
  std::vector<std::string> key_order_;
  std::map<std::string, Value, std::less<>> values_;
  std::vector<GgufStored> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

// Whether a path is a GGUF file: by its first bytes, or by its name where these are damaged.
bool is_gguf(const std::filesystem::path& path);

}  // namespace nestling
