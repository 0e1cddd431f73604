#include "data/bpe.h"

#include <bit>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>

#include "kernels/core/check.h"

namespace nestling {
namespace {

constexpr int32_t kNone = -1;

struct Symbol {
  int32_t id;  // kNone: merged into its left neighbour
  int32_t previous;
  int32_t next;
};

struct Candidate {
  int32_t rank;
  int32_t at;
  int32_t result;
  bool operator>(const Candidate& other) const {
    return std::tie(rank, at) > std::tie(other.rank, other.at);
  }
};

class MergeLoop {
 public:
  MergeLoop(const MergeTable& merges, std::vector<Symbol> symbols)
      : merges_(merges), symbols_(std::move(symbols)) {
    for (size_t i = 0; i < symbols_.size(); ++i) offer(static_cast<int32_t>(i));
  }

  void run(std::vector<int32_t>* ids) {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      if (current(best)) merge(best);
    }
    for (int32_t i = symbols_.empty() ? kNone : 0; i != kNone; i = symbol(i).next)
      ids->push_back(symbol(i).id);
  }

 private:
  Symbol& symbol(int32_t at) { return symbols_[static_cast<size_t>(at)]; }
  void offer(int32_t at) {
    const Symbol& left = symbol(at);
    if (left.next == kNone) return;
    if (const auto* m = merges_.find(left.id, symbol(left.next).id))
      queue_.push({m->rank, at, m->result});
  }
  // Either neighbour may have been merged since the candidate was offered.
  bool current(const Candidate& c) {
    const Symbol& left = symbol(c.at);
    if (left.id == kNone || left.next == kNone) return false;
    const auto* m = merges_.find(left.id, symbol(left.next).id);
    return m != nullptr && m->result == c.result;
  }
  void merge(const Candidate& c) {
    Symbol& left = symbol(c.at);
    Symbol& right = symbol(left.next);
    left.id = c.result;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbol(left.next).previous = c.at;
    if (left.previous != kNone) offer(left.previous);
    offer(c.at);
  }

  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

}  // namespace

MergeTable::MergeTable(const std::vector<BpeMerge>& merges) {
  const size_t slots = std::bit_ceil(merges.size() * 2 + 1);
  table_.assign(slots, {kEmpty, 0, 0});
  mask_ = slots - 1;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t key = pack(merges[rank].left, merges[rank].right);
    size_t at = slot(key);
    while (table_[at].key != kEmpty && table_[at].key != key) at = (at + 1) & mask_;
    table_[at] = {key, static_cast<int32_t>(rank), merges[rank].result};
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>* ids) const {
  NESTLING_CHECK_INPUT(piece.size() <= std::numeric_limits<int32_t>::max(), "a piece of ",
                       piece.size(), " bytes without a place to cut it");
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  bool after_unknown = false;
  for (char c : piece) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t id = bytes_.ids[byte];
    const bool unknown = id < 0;
    if (unknown) {
      NESTLING_CHECK_INPUT(bytes_.unknown >= 0, "the vocabulary has no token for byte ", int{byte},
                           " and no unknown token");
      if (after_unknown && bytes_.fuse_unknown) continue;
      id = bytes_.unknown;
    }
    after_unknown = unknown;
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;
  MergeLoop(merges_, std::move(symbols)).run(ids);
}

}  // namespace nestling
