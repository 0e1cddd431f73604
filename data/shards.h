// shards.h - tokenised documents on disk, in the .idx/.bin pair of Megatron-LM.
//
// Files         <prefix>.bin: tokens end to end, u16 when the vocabulary is below 65,500, else i32.
//               <prefix>.idx: lengths and byte offsets of sequences, and which begin a document.
//               Little endian. Written here: one document = one sequence, and the end-of-text token
//               closes it. Read here: also several sequences a document.
// Reading       the .bin is mapped and read on demand; the .idx is checked whole at opening (sizes,
//               order, offsets without gaps, the last one ending with the .bin).
// Errors        Error of kind kInput naming the file; a token outside the vocabulary also names its
//               document. Writing: both files are whole or absent, the .idx comes last.
// Threads       a reader may be shared; a writer belongs to one thread.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/atomic_file.h"
#include "data/mapped_file.h"

namespace nestling {

// Prefixes of the shards that a path names: its own, or those in a folder, by name; empty where it is neither.
std::vector<std::filesystem::path> shards_at(const std::filesystem::path& path);

class ShardReader {
 public:
  // `vocabulary`: tokens must be in [0, vocabulary).
  ShardReader(const std::filesystem::path& prefix, int64_t vocabulary);

  int64_t documents() const { return static_cast<int64_t>(starts_.size()) - 1; }
  int64_t tokens() const { return starts_.back(); }
  int64_t length(int64_t document) const;
  // Copies tokens [begin, begin + out.size()) of a document.
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;

 private:
  MappedFile bin_;
  int64_t vocabulary_;
  int64_t item_bytes_ = 0;
  std::vector<int64_t> starts_;  // [documents + 1] in tokens
};

class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& prefix, int64_t vocabulary);

  // One document, with its end-of-text token. Not empty.
  void add(std::span<const int32_t> tokens);
  void finish();  // without it nothing is left on disk

 private:
  std::filesystem::path prefix_;
  int64_t vocabulary_;
  int64_t item_bytes_;
  AtomicFile bin_;
  std::vector<int32_t> lengths_;
  std::vector<std::byte> row_;
};

}  // namespace nestling
