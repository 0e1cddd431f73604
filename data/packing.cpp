#include "data/packing.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace nestling {

PackedSource::PackedSource(std::span<const std::filesystem::path> prefixes, int64_t vocabulary,
                           int64_t seq_len, uint64_t seed)
    : first_document_{0}, seq_len_(seq_len), seed_(seed) {
  NESTLING_CHECK_INPUT(seq_len >= 1, "sequence length ", seq_len, ", needs at least 1");
  NESTLING_CHECK_INPUT(!prefixes.empty(), "a source without shards");
  for (const auto& prefix : prefixes) {
    const ShardReader& shard = shards_.emplace_back(prefix, vocabulary);
    NESTLING_CHECK_INPUT(shard.tokens() > 0, prefix.string(), ": holds no token");
    first_document_.push_back(first_document_.back() + shard.documents());
    tokens_ += shard.tokens();
  }
}

PackedSource::Document PackedSource::document(const Epoch& epoch, int64_t place) const {
  const auto global = static_cast<int64_t>(epoch.order(static_cast<uint64_t>(place)));
  const auto after = std::upper_bound(first_document_.begin(), first_document_.end(), global);
  const auto shard = static_cast<size_t>(after - first_document_.begin()) - 1;
  const int64_t index = global - first_document_[shard];
  return {&shards_[shard], index, shards_[shard].length(index)};
}

// A window may reach over the end of an epoch, and windows come a little out of order: two epochs
// are kept.
const PackedSource::Epoch& PackedSource::epoch(int64_t number) {
  std::optional<Epoch>& slot = epochs_[static_cast<size_t>(number % 2)];
  if (slot && slot->number == number) return *slot;
  slot =
      Epoch{number,
            Permutation(static_cast<uint64_t>(documents()), seed_, static_cast<uint64_t>(number)),
            {}};
  int64_t before = 0;
  for (int64_t place = 0; place < documents(); ++place) {
    if (place % kStride == 0) slot->running.push_back(before);
    before += document(*slot, place).length;
  }
  return *slot;
}

void PackedSource::window(int64_t w, std::span<int32_t> tokens, std::vector<int32_t>& starts) {
  NESTLING_CHECK(w >= 0 && static_cast<int64_t>(tokens.size()) == seq_len_ + 1, "window ", w,
                 " into ", tokens.size(), " tokens, needs ", seq_len_ + 1);
  starts.clear();
  int64_t number = w * seq_len_ / tokens_;
  int64_t skip = w * seq_len_ % tokens_;  // tokens of the epoch before the window
  const Epoch* e = &epoch(number);
  const auto known = std::upper_bound(e->running.begin(), e->running.end(), skip) - 1;
  int64_t place = (known - e->running.begin()) * kStride;
  skip -= *known;
  int64_t filled = 0;
  while (filled <= seq_len_) {
    if (place == documents()) {
      e = &epoch(++number);
      place = 0;
    }
    const Document d = document(*e, place++);
    if (skip >= d.length) {
      skip -= d.length;
      continue;
    }
    if (skip == 0) starts.push_back(static_cast<int32_t>(filled));
    const int64_t n = std::min(d.length - skip, seq_len_ + 1 - filled);
    d.shard->read(d.index, skip,
                  tokens.subspan(static_cast<size_t>(filled), static_cast<size_t>(n)));
    filled += n;
    skip = 0;
  }
}

}  // namespace nestling
