#include "data/batches.h"

#include "kernels/core/check.h"
#include "kernels/core/rng.h"

namespace nestling {

namespace {

std::vector<double> weights_of(const std::vector<SourceSpec>& sources) {
  std::vector<double> weights;
  for (const SourceSpec& source : sources) weights.push_back(source.weight);
  return weights;
}

}  // namespace

Batches::Batches(const std::vector<SourceSpec>& sources, int64_t vocabulary, int64_t seq_len,
                 uint64_t seed)
    : mixture_(weights_of(sources), seed), window_(static_cast<size_t>(seq_len + 1)) {
  Rng rng(seed);
  for (const SourceSpec& source : sources)
    sources_.emplace_back(source.shards, vocabulary, seq_len, rng.bits64());
}

void Batches::append(int64_t i, Batch& batch) {
  const auto [source, window] = mixture_.at(i);
  sources_[static_cast<size_t>(source)].window(window, window_, starts_);
  const auto s = static_cast<size_t>(batch.seq_len);
  const auto base = static_cast<int32_t>(batch.tokens.size());
  batch.tokens.insert(batch.tokens.end(), window_.begin(), window_.end() - 1);
  batch.targets.insert(batch.targets.end(), window_.begin() + 1, window_.end());
  batch.counted_targets += batch.seq_len;
  batch.cu_seqlens.push_back(base);  // a sequence begins a piece even in mid-document
  for (const int32_t start : starts_) {
    if (start == 0) continue;
    batch.targets[static_cast<size_t>(base + start - 1)] = kIgnoredTarget;
    --batch.counted_targets;
    if (static_cast<size_t>(start) < s) batch.cu_seqlens.push_back(base + start);
  }
  batch.sources.push_back(source);
  ++batch.sequences;
}

Batch Batches::load(int64_t position, int64_t count, int64_t rank, int64_t ranks) {
  NESTLING_CHECK(position >= 0 && count >= 1 && ranks >= 1 && rank >= 0 && rank < ranks, "load ",
                 count, " sequences at ", position, " for rank ", rank, " of ", ranks);
  NESTLING_CHECK_INPUT(count % ranks == 0, "a batch of ", count, " sequences for ", ranks,
                       " ranks: needs a multiple");
  const int64_t share = count / ranks;
  NESTLING_CHECK(share * seq_len() <= INT32_MAX, "a batch of ", share, " sequences of ", seq_len(),
                 " tokens exceeds int32 offsets");
  Batch batch;
  batch.seq_len = seq_len();
  for (int64_t i = 0; i < share; ++i) append(position + rank * share + i, batch);
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.tokens.size()));
  return batch;
}

}  // namespace nestling
