// attention_split.h - which thread computes which blocks of queries.
//
// The blocks of all segments and heads stand in one line: segment, KV head, slot of the query head,
// block. Each thread takes one run of that line, cut where the cost (pairs of query and key, whole
// lanes) is equal, so causal work is balanced and the heads of a KV head stay together. The cut
// depends on the shapes and the number of parts alone. Where segments go on behind `starts` tokens of
// theirs, positions in a block's mask count from the first of those.
#pragma once
#include "kernels/cpu/attention_tile.h"
#include "kernels/ops/segments.h"

namespace nestling::cpu::attention {

struct Block {
  int64_t segment, kv, slot;
  Mask mask;
};

class Split {
 public:
  Split(const Segments& segments, std::span<const int32_t> starts, int64_t kv_heads, int64_t slots,
        int64_t window, int64_t parts)
      : segments_(segments),
        starts_(starts),
        kv_heads_(kv_heads),
        slots_(slots),
        window_(window),
        parts_(parts) {
    for (int64_t i = 0; i < segments_.count(); ++i) total_ += head_cost(i) * kv_heads_ * slots_;
  }
  int64_t parts() const { return parts_; }
  int64_t start(int64_t segment) const {
    return starts_.empty() ? 0 : starts_[static_cast<size_t>(segment)];
  }

  // Calls fn(block) for the blocks of one part, in line order.
  template <class Fn>
  void for_each(int64_t part, Fn&& fn) const {
    const int64_t from = first_cost(part);
    const int64_t to = first_cost(part + 1);
    int64_t at = 0;  // cost of everything before the current place in the line
    for (int64_t i = 0; i < segments_.count() && at < to; ++i) {
      const int64_t per_head = head_cost(i);
      for (int64_t head = 0; head < kv_heads_ * slots_; ++head) {
        if (at + per_head <= from || at >= to)
          at += per_head;
        else
          for_head(i, head, from, to, at, fn);
      }
    }
  }

 private:
  // A part holds the blocks that begin in [first_cost(part), first_cost(part + 1)).
  int64_t first_cost(int64_t part) const {
    return static_cast<int64_t>(static_cast<__int128>(total_) * part / parts_);
  }
  Mask mask(int64_t segment, int64_t first) const {
    return {start(segment) + first, std::min(kBlock, segments_.length(segment) - first), window_};
  }
  static int64_t cost(const Mask& m) {
    return round_up(m.count) * (m.key_end() - m.key_begin() + kBlock);  // + what a block costs
  }
  int64_t head_cost(int64_t segment) const {
    int64_t sum = 0;
    for (int64_t first = 0; first < segments_.length(segment); first += kBlock)
      sum += cost(mask(segment, first));
    return sum;
  }
  template <class Fn>
  void for_head(int64_t segment, int64_t head, int64_t from, int64_t to, int64_t& at,
                Fn&& fn) const {
    for (int64_t first = 0; first < segments_.length(segment); first += kBlock) {
      const Mask m = mask(segment, first);
      if (at >= from && at < to) fn(Block{segment, head / slots_, head % slots_, m});
      at += cost(m);
    }
  }

  Segments segments_;
  std::span<const int32_t> starts_;
  int64_t kv_heads_, slots_, window_, parts_;
  int64_t total_ = 0;
};

}  // namespace nestling::cpu::attention
