// bpe.h - byte-pair encoding of one piece of text: the merge loop.
//
// Rule          starting from single bytes, the adjacent pair whose merge comes first in the list
//               is merged, leftmost first, until none is left (Sennrich et al. 2016).
// Cost          O(n log n) in the bytes of a piece.
// Threads       immutable after construction.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace nestling {

struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

// (left, right) -> rank and result. Open addressing: one cache line a look-up.
class MergeTable {
 public:
  struct Entry {
    uint64_t key;
    int32_t rank;
    int32_t result;
  };
  explicit MergeTable(const std::vector<BpeMerge>& merges);  // a pair given twice: the last counts
  const Entry* find(int32_t left, int32_t right) const {
    const uint64_t key = pack(left, right);
    for (size_t at = slot(key);; at = (at + 1) & mask_) {
      if (table_[at].key == key) return &table_[at];
      if (table_[at].key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t pack(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u >> 32) & mask_; }
  std::vector<Entry> table_;
  size_t mask_ = 0;
};

class Bpe {
 public:
  struct Bytes {
    std::array<int32_t, 256> ids;  // -1: the vocabulary lacks that byte
    int32_t unknown = -1;          // stands for lacking bytes; -1: they throw
    bool fuse_unknown = false;     // a run of them is one token
  };
  Bpe(Bytes bytes, const std::vector<BpeMerge>& merges) : bytes_(bytes), merges_(merges) {}

  // Appends the ids of `piece`. Throws kInput for a byte that the vocabulary cannot express.
  void encode(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  Bytes bytes_;
  MergeTable merges_;
};

}  // namespace nestling
